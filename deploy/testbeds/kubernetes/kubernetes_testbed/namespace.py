"""The network namespace with the link to it, and the cgroup of every process.

The machine's own tables get two routes and nothing else. The cgroup is one directory in each hierarchy (cgroup v1), or one in all
(v2): daemons in `daemons`, pods where the kubelet puts them, so that the tree holds every process of the cluster.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .commands import output_of
from .layout import Layout, TestBedError

__all__ = ["CgroupTree", "Namespace"]

_CGROUPS = Path("/sys/fs/cgroup")


class Namespace:
    """The network namespace of a cluster."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ip = layout.program("ip")

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    @property
    def path(self) -> Path:
        """The file that names it."""
        return Path("/run/netns") / self._layout.name

    def inside(self, *command: str) -> list[str]:
        """The command that runs a command inside. The machine's own mounts stay visible, unlike with `ip netns exec`."""
        return [self._layout.program("nsenter"), f"--net={self.path}", *command]

    def make(self) -> None:
        """Make it, its bridge and the link. Raises TestBedError where the addresses are in use."""
        if self.exists:
            return
        layout = self._layout
        self._check_addresses()
        self._run("netns", "add", layout.name)
        try:
            self._run("link", "add", layout.link, "type", "veth", "peer", "name", "host", "netns", layout.name)
            self._run("addr", "add", f"{layout.host_address}/30", "dev", layout.link)
            self._run("link", "set", layout.link, "up")
            for step in (
                "link set lo up",
                f"addr add {layout.inner_address}/30 dev host",
                "link set host up",
                f"link add {layout.bridge} type bridge",
                f"addr add {layout.node_address}/24 dev {layout.bridge}",
                f"link set {layout.bridge} up",
            ):
                self._run("-n", layout.name, *step.split())
            for network in (layout.pod_network, layout.service_network):
                self._run("route", "add", network, "via", layout.inner_address)
            # A Service whose pod is on the same bridge as who asks: without it the answer would go past the translation.
            for setting in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
                output_of(self.inside("sh", "-c", f"echo 1 >/proc/sys/{setting}"))
        except TestBedError:
            self.remove()
            raise

    def remove(self) -> None:
        """Take it away: with it go bridge, link, routes and every chain of its packet filter."""
        if self.exists:
            # The outer end goes by itself once the kernel has freed the namespace; this does not wait for that.
            output_of([self._ip, "link", "del", self._layout.link], check=False)
            self._run("netns", "del", self._layout.name)

    def _run(self, *arguments: str) -> None:
        output_of([self._ip, *arguments])

    def _check_addresses(self) -> None:
        block = ipaddress.ip_network(f"{self._layout.block}.0.0/16")
        for line in output_of([self._ip, "-4", "route", "show", "table", "all"]).splitlines():
            found = re.search(r"\d+\.\d+\.\d+\.\d+(/\d+)?", line)
            if found and "default" not in line and ipaddress.ip_network(found[0], strict=False).overlaps(block):
                raise TestBedError(
                    f"{block} is in use on this machine ({line.strip()}); remove that, or set another block"
                )


class CgroupTree:
    """The cgroup of a cluster, in every hierarchy."""

    def __init__(self, name: str) -> None:
        self._name = name
        controllers = _CGROUPS / "cgroup.controllers"
        self._roots = (
            [_CGROUPS]
            if controllers.exists()
            else sorted({each.resolve() for each in _CGROUPS.iterdir() if (each / "cgroup.procs").exists()})
        )

    def make(self) -> None:
        """Make it."""
        for root in self._roots:
            for directory in (root / self._name, root / self._name / "daemons"):
                directory.mkdir(exist_ok=True)
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    # A new cpuset has neither, and takes no process before it has.
                    place = directory / setting
                    if place.exists() and not place.read_text().strip():
                        place.write_text((directory.parent / setting).read_text())

    def take(self, pid: int) -> None:
        """Put a process in; its children follow."""
        for root in self._roots:
            (root / self._name / "daemons" / "cgroup.procs").write_text(str(pid))

    def processes(self) -> set[int]:
        """All that are in it."""
        found: set[int] = set()
        for directory in self._directories():
            try:
                found.update(int(each) for each in (directory / "cgroup.procs").read_text().split())
            except OSError:
                # Gone between the look at the tree and this.
                continue
        return found - {os.getpid()}

    def end(self, *, patience: float = 20.0) -> int:
        """Kill all that are in it; how many there were. Raises TestBedError where some stay."""
        deadline = time.monotonic() + patience
        ended: set[int] = set()
        while left := self.processes():
            if time.monotonic() > deadline:
                raise TestBedError(f"these processes do not end: {sorted(left)}")
            ended |= left
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        return len(ended)

    def remove(self, *, patience: float = 10.0) -> None:
        """Take it away, once no process is in it. Raises TestBedError."""
        deadline = time.monotonic() + patience
        while left := list(self._directories()):
            for directory in left:
                try:
                    directory.rmdir()
                except OSError as error:
                    # A process that ended is in it until its parent has looked after it.
                    if time.monotonic() > deadline:
                        raise TestBedError(f"{directory} cannot be removed: {error.strerror}") from error
            if left:
                time.sleep(0.05)

    def _directories(self) -> Iterator[Path]:
        """Its directories, the deepest first."""
        for root in self._roots:
            top = root / self._name
            if top.is_dir():
                for place, _, _ in os.walk(top, topdown=False):
                    yield Path(place)
