"""Runs Nova's api, conductor, scheduler and compute in one process, for the in-memory message bus."""

import nova.monkey_patch  # noqa: I001 - before everything else, as in Nova's own programs
import pathlib
import sys
import uuid

import nova.conf
import os_brick
import os_vif
from nova import config, objects, service
from nova.compute import rpcapi as compute_rpcapi
from nova.conductor import rpcapi as conductor_rpcapi
from nova.scheduler import rpcapi as scheduler_rpcapi
from nova.virt import fake
from oslo_log import log
from oslo_service import service as oslo_service

CONF = nova.conf.CONF
config.parse_args(sys.argv)
log.setup(CONF, "nova")

# The fake hypervisor generates a node id at each start, and nova-compute refuses to start with another id than before.
node = str(uuid.uuid5(uuid.NAMESPACE_DNS, CONF.host))
setattr(fake.uuids, f"node_{CONF.host}", node)
pathlib.Path(CONF.state_path, "compute_id").write_text(node)

objects.register_all()
os_brick.setup(CONF)
os_vif.initialize()
objects.Service.enable_min_version_cache()
launcher = oslo_service.ServiceLauncher(CONF)
for binary, topic in (
    ("nova-conductor", conductor_rpcapi.RPC_TOPIC),
    ("nova-scheduler", scheduler_rpcapi.RPC_TOPIC),
    ("nova-compute", compute_rpcapi.RPC_TOPIC),
):
    launcher.launch_service(service.Service.create(binary=binary, topic=topic))
launcher.launch_service(service.WSGIService("osapi_compute"))
launcher.wait()
