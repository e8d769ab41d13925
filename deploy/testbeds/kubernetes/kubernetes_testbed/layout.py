"""Addresses, directories and programs of a cluster."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Final

VERSION: Final = "1.20.2"
_STATE: Final = "/var/lib/archelon-testbeds/kubernetes"
#: Debian packages by program.
_PACKAGES: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "openssl": "openssl",
}
_PLUGINS: Final = Path("/usr/lib/cni")


class TestBedError(Exception):
    """The cluster cannot be brought up or taken down. The message names the cause and the remedy."""

    __test__ = False


def cache_directory() -> Path:
    """Directory of built programs, outside of any checkout."""
    cache = os.environ.get("ARCHELON_TESTBED_CACHE") or Path.home() / ".cache" / "archelon"
    return Path(cache) / f"kubernetes-{VERSION}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Addresses and directories of one cluster. Two clusters on one machine need different `name` and `block`.

    Args:
        name: name of the cgroup and the node.
        block: first two numbers of its addresses, a separate /16.
        state: directory of everything that it writes.
        programs: directory of the programs from `build`.
    """

    name: str = "archelon-kubernetes"
    block: str = "10.233"
    state: Path = dataclasses.field(
        default_factory=lambda: Path(os.environ.get("ARCHELON_TESTBED_KUBERNETES_STATE", _STATE))
    )
    programs: Path = dataclasses.field(default_factory=lambda: cache_directory() / "bin")

    @property
    def service_network(self) -> str:
        """Network of Services."""
        return f"{self.block}.0.0/18"

    @property
    def first_service(self) -> str:
        """Address of the Service `kubernetes`: the first one of the network."""
        return f"{self.block}.0.1"

    @property
    def pod_network(self) -> str:
        """Network of pods."""
        return f"{self.block}.64.0/24"

    @property
    def pod_range(self) -> tuple[str, str]:
        """First and last address of pods."""
        return f"{self.block}.64.10", f"{self.block}.64.250"

    @property
    def node_address(self) -> str:
        """Address of the node, on the bridge of its pods, where the API and the DNS server listen."""
        return f"{self.block}.64.1"

    @property
    def host_address(self) -> str:
        """Address of this machine for the cluster: the outer end of the link."""
        return f"{self.block}.128.1"

    @property
    def inner_address(self) -> str:
        """Address of the link's inner end."""
        return f"{self.block}.128.2"

    @property
    def api(self) -> str:
        """URL of the API server."""
        return f"https://{self.node_address}:6443"

    @property
    def link(self) -> str:
        """Name of the link's outer end, at most 15 characters."""
        return f"k8s-{self.block.replace('.', '-')}"

    @property
    def bridge(self) -> str:
        """Name of the bridge, inside the namespace."""
        return "pods"

    @property
    def certificates(self) -> Path:
        """Directory of keys and certificates."""
        return self.state / "certificates"

    @property
    def logs(self) -> Path:
        """Directory of the daemons' logs."""
        return self.state / "logs"

    @property
    def containerd_socket(self) -> Path:
        """Socket of containerd."""
        return self.state / "containerd.sock"

    def kubeconfig(self, user: str = "admin") -> Path:
        """A user's kubeconfig."""
        return self.state / f"{user}.kubeconfig"

    def program(self, name: str) -> str:
        """Return the path of a built or installed program. Raises TestBedError."""
        built = self.programs / name
        if built.exists():
            return str(built)
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found is None:
            raise TestBedError(f"{name} is missing; {_remedy(name)}")
        return found

    def obstacle(self) -> str | None:
        """Return what this machine lacks for a cluster, apart from built programs; None if nothing."""
        if os.geteuid() != 0:
            return "root"
        if not Path("/etc/debian_version").exists():
            return "Debian"
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        packages = {package for program, package in _PACKAGES.items() if shutil.which(program, path=path) is None}
        if not (_PLUGINS / "bridge").exists():
            packages.add("containernetworking-plugins")
        return f"the Debian package {', '.join(sorted(packages))}" if packages else None


def _remedy(program: str) -> str:
    package = _PACKAGES.get(program)
    return f"install the Debian package {package}" if package else f"{Path(__file__).parents[1]}/build builds it"
