"""seed.py CLOUDS.YAML: creates the objects that tenants need: flavours, images, networks, a key pair, a volume type.

The project has a single private network, because templates whose servers name no network depend on it.
"""

import os
import sys

os.environ["OS_CLIENT_CONFIG_FILE"] = sys.argv[1]
import openstack

admin, demo = openstack.connect(cloud="testbed-admin"), openstack.connect(cloud="testbed")

FLAVORS = {
    "m1.nano": (64, 1, 1),
    "m1.micro": (128, 1, 1),
    "m1.tiny": (512, 1, 1),
    "m1.small": (2048, 20, 1),
    "m1.medium": (4096, 40, 2),
    "m1.large": (8192, 80, 4),
    "m1.xlarge": (16384, 160, 8),
}
IMAGES = (
    "cirros-0.3.2-x86_64-disk",
    "Fedora-x86_64-20-20140407-sda",
    "ubuntu_soft_config",
    "ubuntu-software-config",
    "TestVM",
    "debian-12",
)

for name, (ram, disk, cores) in FLAVORS.items():
    if not admin.compute.find_flavor(name):
        admin.compute.create_flavor(name=name, ram=ram, disk=disk, vcpus=cores)
present = {image.name for image in admin.image.images()}
for name in IMAGES:
    if name not in present:
        formats = {"disk_format": "raw", "container_format": "bare", "visibility": "public"}
        admin.image.create_image(name=name, data=b"\0" * 65536, wait=True, validate_checksum=False, **formats)
public = admin.network.find_network("public")
if not public:
    provider = {"provider_network_type": "flat", "provider_physical_network": "public"}
    public = admin.network.create_network(name="public", is_router_external=True, **provider)
    admin.network.create_subnet(
        network_id=public.id, ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False, name="public-subnet"
    )
if not demo.network.find_network("private"):
    private = demo.network.create_network(name="private")
    subnet = demo.network.create_subnet(network_id=private.id, ip_version=4, cidr="10.20.0.0/16", name="private-subnet")
    router = demo.network.create_router(name="router", external_gateway_info={"network_id": public.id})
    demo.network.add_interface_to_router(router, subnet_id=subnet.id)
if not demo.compute.find_keypair("mcn-key"):
    demo.compute.create_keypair(name="mcn-key")
if not any(each.name == "fake" for each in admin.block_storage.types()):
    admin.block_storage.create_type(name="fake")
