"""Hosts of orchestrators: the memory of one more idle instance, and the processor time of its start.

A start lasts from the order's file to the activation. All instances are deployed when the memory is measured; the service manager
and the cloud are fakes in this process. The goals are absolute: a start is processor time, and memory depends on no load.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import psutil

from sdk.testing.http_fakes import Bench, Server
from tests.ports import free_port
from tests.sdk.host.orders import HostProcess, Platform
from tests.sdk.processes import ROOT

from .goals import Goals
from .installations import processor_seconds

_SERVICE = "http://schemas.archelon.example/occi/service#hello"
_WARM = 8
_CODE = "import sdk\n\nclass Tested(sdk.Orchestrator):\n    pass\n"


class _Benches:
    """The service managers and clouds of many instances, at one port."""

    def __init__(self) -> None:
        self._server = Server(("127.0.0.1", 0), self)
        self._server.start()
        self.by_name: dict[str, Bench] = {}

    def add(self) -> Bench:
        name = str(len(self.by_name))
        made = Bench(_SERVICE, url=f"{self._server.url}/{name}", seconds=120)
        made.cloud.makes["hello"] = {"hello.url": "http://there/"}
        self.by_name[name] = made
        return made

    def __call__(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        name, _, rest = environ["PATH_INFO"].removeprefix("/").partition("/")
        environ["PATH_INFO"] = f"/{rest}"
        return self.by_name[name](environ, response)

    def close(self) -> None:
        self._server.close()


class _Host(HostProcess):
    """A host, and what all its processes use."""

    def __init__(self, kind: str, root: Path) -> None:
        self.platform = Platform(root)
        super().__init__(self.platform, root / "output", "-m", "sdk.host", kind)

    def processes(self) -> list[psutil.Process]:
        own = psutil.Process(self.pid)
        return [own, *own.children()]

    def pss(self) -> float:
        """KiB."""
        return sum(each.memory_full_info().pss for each in self.processes()) / 1024

    def seconds(self) -> float:
        """Processor time."""
        return sum(map(processor_seconds, self.processes()))


def _measured(kind: str, count: int, directory: Path, bundle: Path) -> tuple[float, float]:
    """Return KiB of PSS and seconds of processor of one more instance."""
    benches = _Benches()
    with contextlib.closing(benches), _Host(kind, directory / kind) as host:
        _serve(host, kind, [benches.add() for _ in range(_WARM)], bundle)
        _settle(host)
        memory = host.pss()
        started = _serve(host, kind, [benches.add() for _ in range(count)], bundle)
        _settle(host)
        return (host.pss() - memory) / count, started / count


def _settle(host: _Host) -> None:
    """Wait until it is idle."""
    before = -1.0
    while (now := host.seconds()) > before + 0.01:
        before = now
        time.sleep(0.5)


def _serve(host: _Host, kind: str, benches: list[Bench], bundle: Path) -> float:
    """Serve instances until they are deployed; return the processor time until they were activated."""
    before = host.seconds()
    ports = [host.port if kind == "shared" else free_port() for _ in benches]
    for bench, port in zip(benches, ports, strict=True):
        host.platform.order(bench, bundle, {"PORT": str(port)})
    urls = [
        f"http://127.0.0.1:{port}" + (f"/{bench.instance}" if kind == "shared" else "")
        for bench, port in zip(benches, ports, strict=True)
    ]
    for bench, url in zip(benches, urls, strict=True):
        assert bench.await_renewal()
        with bench.orchestrator(url) as occi:
            bench.activate(occi)
    used = host.seconds() - before
    for phase in ("deploy", "provision"):
        # A phase takes a second, in which nothing is done: so all at once.
        for bench, url in zip(benches, urls, strict=True):
            with bench.orchestrator(url) as occi:
                bench.phase(occi, phase)
        for bench in benches:
            assert bench.await_report(phase) is not None
    return used


def main() -> Goals:
    """Measure both kinds of hosts."""
    goals = Goals()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        hello = ROOT / "orchestrators" / "hello"
        coded = directory / "coded"
        shutil.copytree(hello, coded)
        (coded / "orchestrator.py").write_text(_CODE)
        memory, seconds = _measured("shared", 100, directory, hello)
        goals.check("hosts.memory.shared", memory)
        goals.check("hosts.start.shared", seconds * 1000)
        memory, seconds = _measured("forked", 12, directory, coded)
        goals.check("hosts.memory.forked", memory / 1024)
        print(f"  forked: ms of processor of a start: {seconds * 1000:.1f}")
    return goals


if __name__ == "__main__":
    main()
