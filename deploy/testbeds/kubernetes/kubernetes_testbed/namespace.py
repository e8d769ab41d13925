"""The cluster's namespaces with the link to them, and the cgroup of all processes.

A sleeping process holds a network namespace and a mount namespace, which disappear with it. In the mount namespace, directories
that programs of a node write to at fixed paths are replaced by the cluster's own. The machine only gets two routes. The cgroup is
a directory in each hierarchy (cgroup v1), or a single one (v2): daemons are in `daemons`, pods where the kubelet creates them.
"""

from __future__ import annotations

import contextlib
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
#: Directories that containerd, its shims, CNI plugins and the kubelet write to, independently of their configuration.
_OWN = ("/run", "/var/lib", "/var/log")
#: In new namespaces: mounts directories below $1 over those in $@, keeps $2 and $3 visible, and sleeps.
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
        """Return the command that runs a command in the namespaces, or without `mounts` in the network namespace only."""
        (holder,) = self._cgroup.processes(_HOLDER)
        entered = ("--net", "--mount") if mounts else ("--net",)
        return [self._layout.program("nsenter"), f"--target={holder}", *entered, *command]

    def make(self) -> None:
        """Create them with the bridge and the link. Raises TestBedError if the addresses are in use."""
        if self._cgroup.processes(_HOLDER) and self._complete.exists():
            return
        # Remove an incomplete one of a killed `up`.
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
        with holder.stdout as stdout:
            ready = stdout.readline()
        if not ready:
            raise TestBedError(f"no namespaces: {(layout.state / 'namespaces.log').read_text().strip()}")
        # The holder outlives this process; this suppresses Popen's warning.
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
            # Without bridge-nf-call-iptables, responses of a pod on the caller's bridge would bypass the address translation.
            for setting in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
                output_of(self.inside("sh", "-c", f"echo 1 >/proc/sys/{setting}"))
            self._complete.touch()
        except TestBedError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove them, and so mounts, bridge, routes and all chains of the packet filter."""
        # The kernel removes the link later, when it frees the namespace; this does not wait for that.
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
        """Create it."""
        for root in self._roots:
            for directory in (root / self._name, *(root / self._name / part for part in (_HOLDER, "daemons"))):
                directory.mkdir(exist_ok=True)
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    # A new cpuset is empty, and accepts no process until both are set.
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
        """Start a process in its own session and in a part of the tree, which its children inherit."""
        # The shell waits until it is in the cgroup, and then executes the program; without the line, it exits.
        gate_read, gate_write = os.pipe()
        process = subprocess.Popen(
            ["sh", "-c", 'read _ && exec "$@" </dev/null', part, *command],
            # Standard input, because shells support other descriptors with one digit only.
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
        """Return the ids of all processes in it, or in a part of it."""
        found: set[int] = set()
        for directory in self._directories(part):
            # The directory may have been removed since it was listed.
            with contextlib.suppress(OSError):
                found.update(int(each) for each in (directory / "cgroup.procs").read_text().split())
        return found - {os.getpid()}

    def end(self, part: str = "", *, timeout: float = 20.0) -> int:
        """Kill all processes in it, or in a part of it; returns their number. Raises TestBedError if some do not exit."""
        deadline = time.monotonic() + timeout
        ended: set[int] = set()
        while left := self.processes(part):
            if time.monotonic() > deadline:
                raise TestBedError(f"these processes do not exit: {sorted(left)}")
            ended |= left
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        return len(ended)

    def remove(self, *, timeout: float = 10.0) -> None:
        """Remove it once it is empty. Raises TestBedError."""
        deadline = time.monotonic() + timeout
        while left := list(self._directories()):
            for directory in left:
                try:
                    directory.rmdir()
                except OSError as error:
                    # An exited process remains in it until its parent has reaped it.
                    if time.monotonic() > deadline:
                        raise TestBedError(f"{directory} cannot be removed: {error.strerror}") from error
            if left:
                time.sleep(0.05)

    def _directories(self, part: str = "") -> Iterator[Path]:
        """Yield its directories, or those of a part, the deepest first."""
        for root in self._roots:
            top = root / self._name / part
            if top.is_dir():
                for place, _, _ in os.walk(top, topdown=False):
                    yield Path(place)
