"""The namespaces of the cluster with the link to them, and the cgroup of every process.

A process that does nothing else holds a network namespace and a mount namespace; they go with it, and all that was mounted in
them. In the mount namespace the directories in which programs of a node write at fixed places are the cluster's own, so that the
machine's stay as they are. The machine's tables get two routes and nothing else. The cgroup is one directory in each hierarchy
(cgroup v1), or one in all (v2): daemons in `daemons`, pods where the kubelet puts them, so that the tree holds every process.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from .commands import output_of
from .layout import Layout, TestBedError

_CGROUPS = Path("/sys/fs/cgroup")
_HOLDER = "namespaces"
#: Where containerd, its shims, the network's plugins and the kubelet write whatever they are configured to.
_OWN = ("/run", "/var/lib", "/var/log")
#: In new namespaces: lay the directories ($@) below $1 over the machine's, keep what is given in $2 and $3, and stay.
_HOLD = """
set -eu
own=$1 state=$2 programs=$3
shift 3
for place do mkdir -p "$own$place"; done
for kept in "$state" "$programs"; do
    for place do
        case $kept in "$place"/*) mkdir -p "$own$kept" && mount --bind "$kept" "$own$kept" ;; esac
    done
done
for place do mount --rbind "$own$place" "$place"; done
echo ready
exec sleep infinity
"""


class Namespace:
    """The network namespace and the mount namespace of a cluster."""

    def __init__(self, layout: Layout, cgroup: CgroupTree) -> None:
        self._layout = layout
        self._cgroup = cgroup
        self._ip = layout.program("ip")
        self._complete = layout.state / "namespaces.complete"

    def inside(self, *command: str, mounts: bool = True) -> list[str]:
        """The command that runs a command inside; without `mounts` in the network namespace alone."""
        (holder,) = self._cgroup.processes(_HOLDER)
        entered = ("--net", "--mount") if mounts else ("--net",)
        return [self._layout.program("nsenter"), f"--target={holder}", *entered, *command]

    def make(self) -> None:
        """Make them, with the bridge and the link. Raises TestBedError where the addresses are in use."""
        if self._cgroup.processes(_HOLDER) and self._complete.exists():
            return
        # One that was killed on the way.
        self.remove()
        layout = self._layout
        self._check_addresses()
        own, kept = str(layout.state / "machine"), (str(layout.state), str(layout.programs))
        unshare = [layout.program("unshare"), "--net", "--mount", "--propagation=private"]
        with (layout.state / "namespaces.log").open("wb") as log:
            holder = self._cgroup.launch(
                [*unshare, "sh", "-c", _HOLD, _HOLDER, own, *kept, *_OWN], _HOLDER, stdout=subprocess.PIPE, stderr=log
            )
        assert holder.stdout is not None
        with holder.stdout as said:
            ready = said.readline()
        if not ready:
            raise TestBedError(f"no namespaces: {(layout.state / 'namespaces.log').read_text().strip()}")
        # It outlives this process.
        holder.returncode = 0
        try:
            self._run("link", "add", layout.link, "type", "veth", "peer", "name", "host", "netns", str(holder.pid))
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
                output_of(self.inside(self._ip, *step.split()))
            for network in (layout.pod_network, layout.service_network):
                self._run("route", "add", network, "via", layout.inner_address)
            # A Service whose pod is on the same bridge as who asks: without it the answer would go past the translation.
            for setting in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
                output_of(self.inside("sh", "-c", f"echo 1 >/proc/sys/{setting}"))
            self._complete.touch()
        except TestBedError:
            self.remove()
            raise

    def remove(self) -> None:
        """Take them away: with them go mounts, bridge, routes and every chain of the packet filter."""
        # The outer end would go by itself once the kernel has freed the namespace; this does not wait for that.
        if (Path("/sys/class/net") / self._layout.link).exists():
            output_of([self._ip, "link", "del", self._layout.link], check=False)
        self._complete.unlink(missing_ok=True)
        self._cgroup.end(_HOLDER)

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
            for directory in (root / self._name, *(root / self._name / part for part in (_HOLDER, "daemons"))):
                directory.mkdir(exist_ok=True)
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    # A new cpuset has neither, and takes no process before it has.
                    place = directory / setting
                    if place.exists() and not place.read_text().strip():
                        place.write_text((directory.parent / setting).read_text())

    def launch(
        self,
        command: Sequence[str],
        part: str,
        *,
        stdout: int | IO[bytes],
        stderr: IO[bytes],
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own and a part of the tree, which its children are in, too."""
        # It joins before it becomes the program: nothing that it starts can be missed. Without the line it ends.
        gate_read, gate_write = os.pipe()
        process = subprocess.Popen(
            ["sh", "-c", 'read _ && exec "$@" </dev/null', part, *command],
            # Its standard input, since shells know other descriptors by one digit only.
            stdin=gate_read,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        os.close(gate_read)
        try:
            for root in self._roots:
                (root / self._name / part / "cgroup.procs").write_text(str(process.pid))
            os.write(gate_write, b"\n")
        finally:
            os.close(gate_write)
        return process

    def processes(self, part: str = "") -> set[int]:
        """All that are in it, or in a part of it."""
        found: set[int] = set()
        for directory in self._directories(part):
            try:
                found.update(int(each) for each in (directory / "cgroup.procs").read_text().split())
            except OSError:
                # Gone between the look at the tree and this.
                continue
        return found - {os.getpid()}

    def end(self, part: str = "", *, patience: float = 20.0) -> int:
        """Kill all that are in it, or in a part of it; how many there were. Raises TestBedError where some stay."""
        deadline = time.monotonic() + patience
        ended: set[int] = set()
        while left := self.processes(part):
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

    def _directories(self, part: str = "") -> Iterator[Path]:
        """Its directories, or those of a part, the deepest first."""
        for root in self._roots:
            top = root / self._name / part
            if top.is_dir():
                for place, _, _ in os.walk(top, topdown=False):
                    yield Path(place)
