"""All of it, up and down."""

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
    """A cluster on this machine.

    Args:
        told: takes lines for people.
    """

    def __init__(self, layout: Layout, told: Callable[[str], None] = lambda line: None) -> None:
        self.layout = layout
        self._told = told
        self._cgroup = CgroupTree(layout.name)
        self._namespace = Namespace(layout, self._cgroup)
        self._daemons = Daemons(
            layout.state / "processes",
            layout.logs,
            layout.state / "tmp",
            cgroup=self._cgroup,
            inside=self._namespace.inside,
            told=self._tell,
        )
        self._began = time.monotonic()

    @staticmethod
    def build() -> None:
        """Build the programs, unless they are there. Raises subprocess.CalledProcessError."""
        with subprocess.Popen([str(_BUILD)], stdout=sys.stderr, start_new_session=True) as building:
            try:
                status = building.wait()
            except BaseException:
                os.killpg(building.pid, signal.SIGTERM)
                raise
        if status:
            raise subprocess.CalledProcessError(status, str(_BUILD))

    def up(self) -> None:
        """Bring it up; what runs already stays. Raises TestBedError; what this call started has ended by then."""
        self._began = time.monotonic()
        self._daemons.started.clear()
        with self._alone(), self._ending_on_error():
            self._cgroup.make()
            self._namespace.make()
            inside = self._namespace.inside()
            # These two need nobody, and are up by the time that somebody needs them.
            control_plane.start_store(self.layout, self._daemons)
            node.start_runtime(self.layout, self._daemons)
            make_certificates(self.layout)
            control_plane.start_api_server(self.layout, self._daemons, inside=inside)
            # Before the API answers: for its first five seconds it asks for a Docker, which nothing can keep it from.
            node.start_kubelet(self.layout, self._daemons)
            control_plane.start_controllers(self.layout, self._daemons)
            self._tell(f"the API answers at {self.layout.api}")
            node.await_node(self.layout, self._daemons, inside=inside)
            control_plane.await_controllers(self.layout, self._daemons)
            own = Path(__file__).with_name("cluster_dns.py")
            told = (str(self.layout.state), self.layout.name, self.layout.block)
            # With the machine's mounts: this Python may lie where the others see directories of their own.
            self._daemons.start("cluster-dns", sys.executable, str(own), *told, mounts=False)
            self._daemons.await_ready("cluster-dns", lambda: cluster_dns.answers(self.layout))
            self._tell("pods can run")

    @property
    def is_up(self) -> bool:
        """Whether all of its daemons run."""
        return all(self._daemons.runs(name) for name in (*control_plane.DAEMONS, *node.DAEMONS))

    def load(self, archive: Path) -> None:
        """Give containerd the images in an archive, as `docker save` or `buildah push docker-archive:` writes it."""
        output_of([*self._ctr(), "images", "import", str(archive)], timeout=300.0)

    def kill(self, daemon: str) -> None:
        """End a daemon without asking it; `up` starts it again."""
        self._daemons.stop(daemon, patience=0.0)

    def down(self) -> None:
        """Take it down with everything that it put on this machine; what was built stays. Raises TestBedError."""
        if not self.layout.state.exists() and not self._cgroup.processes():
            return
        with self._alone():
            self._take_down()

    def _take_down(self) -> None:
        killed = self._cgroup.end()
        self._told(f"{killed} processes ended")
        self._namespace.remove()
        self._cgroup.remove()
        shutil.rmtree(self.layout.state)

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
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
                raise TestBedError(f"{problem}; and what was started does not end: {left}") from problem
            raise

    def remains(self) -> list[str]:
        """What this machine still has of it, in words."""
        found = [f"process {pid}" for pid in sorted(self._cgroup.processes())]
        if (Path("/sys/class/net") / self.layout.link).exists():
            found.append(f"link {self.layout.link}")
        if self.layout.state.exists():
            found.append(f"directory {self.layout.state}")
        return found

    def _tell(self, line: str) -> None:
        self._told(f"{line} (after {time.monotonic() - self._began:.1f} s)")

    def _ctr(self) -> list[str]:
        return [self.layout.program("ctr"), f"--address={self.layout.containerd_socket}", "--namespace=k8s.io"]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One up or down at a time."""
        self.layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Beside the directory, which `down` removes.
        with self.layout.state.with_name(f"{self.layout.state.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
