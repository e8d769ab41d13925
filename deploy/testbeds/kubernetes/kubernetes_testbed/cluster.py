"""Brings a cluster up and takes it down."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import cluster_dns, control_plane, node
from .certificates import make_certificates
from .commands import output_of
from .daemons import Daemons
from .layout import Layout, TestBedError
from .namespace import CgroupTree, Namespace

_BUILD = Path(__file__).parents[1] / "build"


class Cluster:
    """A cluster on this machine; `notify` receives progress messages."""

    def __init__(self, layout: Layout, notify: Callable[[str], None] = lambda line: None) -> None:
        self.layout = layout
        self._notify = notify
        self._cgroup = CgroupTree(layout.name)
        self._namespace = Namespace(layout, self._cgroup)
        self._daemons = Daemons(
            layout.state / "processes",
            layout.logs,
            layout.state / "tmp",
            cgroup=self._cgroup,
            inside=self._namespace.inside,
            notify=self._report,
        )
        self._began = time.monotonic()

    @staticmethod
    def build() -> None:
        """Build the programs, unless they exist. Raises subprocess.CalledProcessError."""
        with subprocess.Popen([str(_BUILD)], stdout=sys.stderr, start_new_session=True) as building:
            try:
                status = building.wait()
            except BaseException:
                os.killpg(building.pid, signal.SIGTERM)
                raise
        if status:
            raise subprocess.CalledProcessError(status, str(_BUILD))

    def up(self) -> None:
        """Bring it up; keeps what runs. Raises TestBedError after stopping what this call started."""
        self._began = time.monotonic()
        self._daemons.started.clear()
        with self._exclusive(), self._cleanup_on_error():
            self._cgroup.make()
            self._namespace.make()
            inside = self._namespace.inside()
            # These two depend on nothing, and are started early because others depend on them.
            control_plane.start_store(self.layout, self._daemons)
            node.start_runtime(self.layout, self._daemons)
            make_certificates(self.layout)
            control_plane.start_api_server(self.layout, self._daemons, inside=inside)
            # Before the API is ready: in its first five seconds it looks for Docker, which cannot be disabled.
            node.start_kubelet(self.layout, self._daemons)
            control_plane.start_controllers(self.layout, self._daemons)
            self._report(f"the API responds at {self.layout.api}")
            node.await_node(self.layout, self._daemons, inside=inside)
            control_plane.await_controllers(self.layout, self._daemons)
            own = Path(__file__).with_name("cluster_dns.py")
            arguments = (str(self.layout.state), self.layout.name, self.layout.block)
            # With the machine's mounts: the cluster's mounts may hide this Python.
            self._daemons.start("cluster-dns", sys.executable, str(own), *arguments, mounts=False)
            self._daemons.await_ready("cluster-dns", lambda: cluster_dns.is_ready(self.layout))
            self._report("pods can run")

    @property
    def is_up(self) -> bool:
        """Whether all of its daemons run."""
        return all(self._daemons.runs(name) for name in (*control_plane.DAEMONS, *node.DAEMONS))

    def load(self, archive: Path) -> None:
        """Load images from an archive of `docker save` or `buildah push docker-archive:` into containerd."""
        output_of([*self._ctr(), "images", "import", str(archive)], timeout=300.0)

    def kill(self, daemon: str) -> None:
        """Kill a daemon; `up` restarts it."""
        self._daemons.stop(daemon, timeout=0.0)

    def down(self) -> None:
        """Take it down with everything that it created on this machine, except built programs. Raises TestBedError."""
        if not self.layout.state.exists() and not self._cgroup.processes():
            return
        with self._exclusive():
            self._take_down()

    def _take_down(self) -> None:
        killed = self._cgroup.end()
        self._notify(f"{killed} processes killed")
        self._namespace.remove()
        self._cgroup.remove()
        shutil.rmtree(self.layout.state)

    @contextmanager
    def _cleanup_on_error(self) -> Iterator[None]:
        ran = bool(self._cgroup.processes())
        try:
            yield
        except BaseException as problem:
            try:
                if ran:
                    for name in reversed(self._daemons.started):
                        self._daemons.stop(name)
                else:
                    self._take_down()
            except TestBedError as left:
                raise TestBedError(f"{problem}; and what was started does not stop: {left}") from problem
            raise

    def leftovers(self) -> list[str]:
        """Describe what this machine still has of it."""
        found = [f"process {pid}" for pid in sorted(self._cgroup.processes())]
        if (Path("/sys/class/net") / self.layout.link).exists():
            found.append(f"link {self.layout.link}")
        if self.layout.state.exists():
            found.append(f"directory {self.layout.state}")
        return found

    def _report(self, line: str) -> None:
        self._notify(f"{line} (after {time.monotonic() - self._began:.1f} s)")

    def _ctr(self) -> list[str]:
        return [self.layout.program("ctr"), f"--address={self.layout.containerd_socket}", "--namespace=k8s.io"]

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Lock, so that one `up` or `down` runs at a time."""
        self.layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock is beside the directory, because `down` removes the directory.
        with self.layout.state.with_name(f"{self.layout.state.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
