"""The command line for tests: as a function call, or as a process for `archelon dev`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from archelon.all_in_one import AllInOne
from archelon.errors import Status
from archelon.main import main
from archelon.state_directory import StateDirectory
from tests.ports import lane
from tests.waiting import until

ROOT = Path(__file__).parents[2]
GUESTBOOK = "http://schemas.archelon.org/occi/service#guestbook"
FRONT = "http://schemas.example.org/occi/sm#front"


@dataclasses.dataclass(frozen=True)
class CliResult:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def archelon(*arguments: object) -> CliResult:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(each) for each in arguments])
    return CliResult(int(status), out.getvalue(), err.getvalue())


def first_port() -> int:
    """First port to try, apart from those of other test runs and of this run's other processes."""
    return 10000 + 2000 * lane() + random.randrange(0, 2000, 40)


def front(directory: Path) -> Path:
    """Write the bundle of a service that depends on the guestbook: the third level of a composition."""
    (directory / "templates").mkdir(parents=True)
    hello = ROOT / "orchestrators" / "hello"
    manifest = yaml.safe_load((hello / "manifest.yaml").read_text())
    manifest |= {"service_type": FRONT, "title": "Front", "depends_on": [{GUESTBOOK: {"inputs": []}}]}
    (directory / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    (directory / "server.py").write_text((hello / "server.py").read_text())
    (directory / "templates" / "local.yaml").write_text((hello / "templates" / "local.yaml").read_text())
    return directory


class Dev:
    """`archelon dev` as a process, over one state directory."""

    def __init__(self, state: Path, *, output: Path | None = None) -> None:
        self.state = state
        self.output = output or state.with_name(f"{state.name}.out")
        self._port = first_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Start it and wait until it is ready."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHELON_")}
        command = [sys.executable, "-m", "archelon", "dev", "--state", str(self.state), "--port", str(self._port)]
        self.launch([*command, *arguments], cwd=ROOT, environment=environment)

    def launch(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        """Start it with the given command and wait until it is ready."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        until(lambda: self._ready(), "archelon dev is ready", seconds=180)

    def _ready(self) -> bool:
        assert self.process is not None
        result = self.output.read_text()
        assert self.process.poll() is None, result
        return "ready in" in result

    def interrupt(self) -> None:
        """Send SIGINT, and check that it exits cleanly."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=120) == Status.DONE, self.output.read_text()

    def end(self) -> None:
        """Terminate it and everything that it started."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.state.exists():
            AllInOne(StateDirectory(self.state), lambda _line: None).down()

    def __call__(self, *arguments: object) -> CliResult:
        """Run a command against it, with a timeout of three minutes if the command waits."""
        waits = arguments[:1] == ("instance",) and arguments[1] in ("create", "update", "delete", "stop", "start")
        return archelon(*arguments, "--state", self.state, *(("--timeout", 180) if waits else ()))


@contextlib.contextmanager
def dev(state: Path) -> Iterator[Dev]:
    """An all-in-one, not started yet, that ends with the test."""
    running = Dev(state)
    try:
        yield running
    finally:
        running.end()
