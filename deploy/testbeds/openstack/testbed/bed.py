"""Brings the test bed up, from any state, and takes it down.

Every step is idempotent: installed packages, migrated databases and running processes are kept. So a second `up` with more groups
adds these to the running services.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import json
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from . import parts, software
from .layout import HERE, PASSWORD, REGION, Layout
from .parts import Part, Step
from .processes import Processes

#: The database server, the only process outside of `parts`.
_MARIADB, _MARIADB_PORT = "mariadbd", 13306
#: Prefix of the names of setup commands.
_STEP = "setup-"
#: Excluded from snapshots.
_TRANSIENT = ("log", "tmp", "lock", "mysql.sock")
#: `@NAME@` in a command or a file of `etc/`.
_PLACEHOLDER = re.compile(r"@([A-Z]+)@")
_DIRECTORIES = (
    "etc", "etc/conf.d", "log", "home", "tmp", "images", "nova", "neutron", "cinder", "glance", "designate", "named",
    "keystone-fernet", "keystone-credential",
)  # fmt: skip


class SetupError(Exception):
    """A setup step failed; the message contains its name and the end of its log."""


class TestBed:
    """One test bed with these groups of parts; `report` receives progress messages."""

    def __init__(self, layout: Layout, groups: Collection[str], report: Callable[[str], None]) -> None:
        self._layout = layout
        self._groups = frozenset((parts.CORE, *groups))
        self._parts = [part for part in parts.PARTS if part.group in self._groups]
        self._say = report
        self._processes = Processes(layout)
        rndc = software.find_program("rndc") or "rndc"
        self._values = {**layout.values(), "HERE": str(HERE), "RNDC": rndc}

    def up(self, *, fresh: bool = False, snapshot: bool = False) -> None:
        """Bring it up.

        Args:
            fresh: start from the snapshot of these groups, or from an empty state without one.
            snapshot: save the state for later `fresh` starts, once everything responds.

        Raises SoftwareError, ProcessError or SetupError after stopping what this call started; the message names the cause.
        """
        with self._exclusive(), self._cleanup_on_error():
            if fresh:
                self._stop()
                self._clear()
                if not snapshot:
                    self._restore()
            self.install()
            self._start()
            if snapshot:
                self._stop()
                self._save()
                self._start()

    def install(self) -> None:
        """Install missing software. Raises SoftwareError."""
        software.install(self._layout, self._groups, self._say)
        self._values["RNDC"] = software.find_program("rndc") or "rndc"

    def down(self) -> None:
        """Stop every process, including those of earlier runs."""
        if self._layout.state.exists() or self._processes.names():
            with self._exclusive():
                self._stop()

    @contextmanager
    def _cleanup_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._processes.close()
            self._stop(self._processes.started)
            raise

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._layout.state.mkdir(parents=True, exist_ok=True)
        with (self._layout.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # state ------------------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        for path in self._layout.state.iterdir():
            if path.name == "lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _save(self) -> None:
        target = self._layout.snapshot(self._groups)
        written = target.with_suffix(".new")
        with tarfile.open(written, "w") as archive:
            for path in sorted(self._layout.state.iterdir()):
                if path.name not in _TRANSIENT:
                    archive.add(path, path.name)
        written.rename(target)
        self._say(f"snapshot saved: {target}")

    def _restore(self) -> None:
        source = self._layout.snapshot(self._groups)
        if not source.exists():
            return
        with tarfile.open(source) as archive:
            archive.extractall(self._layout.state, filter="tar")
        self._say("state restored from the snapshot")

    # starting ---------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for name in _DIRECTORIES:
            (self._layout.state / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        # Stop setup steps of a killed run.
        self._processes.stop([name for name in self._processes.names() if name.startswith(_STEP)], seconds=0.0)
        self._processes.check_ports(_MARIADB, [_MARIADB_PORT])
        for part in self._parts:
            self._processes.check_ports(part.name, part.ports)
        self._configure()
        self._start_mariadb()
        keystone, *others = self._parts
        # Two services at a time, for two cores; the steps of each service run in order. Keystone depends on no other service.
        self._two_at_a_time(
            lambda: self._start_keystone(keystone), *(partial(self._run_once, part.setup) for part in others)
        )
        self._say("schemas are ready")
        for part in others:
            self._launch(part)
        for part in others:
            self._await(part)
        self._two_at_a_time(*(partial(self._run_once, part.post_start) for part in self._parts))

    def _two_at_a_time(self, *calls: Callable[[], None]) -> None:
        """Run the calls; the first error stops the steps of the others."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            try:
                # Here too: an interrupt between two submissions would otherwise wait for the first.
                under_way = [pool.submit(call) for call in calls]
                for done in concurrent.futures.as_completed(under_way):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._processes.close()
                self._stop({name for name in self._processes.started if name != _MARIADB})
                raise

    def _start_keystone(self, keystone: Part) -> None:
        self._run_once(keystone.setup)
        self._launch(keystone)
        self._await(keystone)
        self._enter_catalogue()
        self._say("the catalogue is ready")

    def _configure(self) -> None:
        names = {part.name for part in self._parts}
        for source in sorted((HERE / "etc").iterdir()):
            # Names of a service's files start with its name; files that start with _ are included by others.
            if source.name.startswith("_") or not any(source.name.startswith(name) for name in names):
                continue
            self._layout.etc(source.name).write_text(self._render(source.read_text()))
        # JSON is YAML.
        clouds = json.dumps({"clouds": self._layout.clouds()}, indent=2)
        (self._layout.state / "clouds.yaml").write_text(clouds + "\n")

    def _render(self, text: str) -> str:
        """Replace `@NAME@`, and lines `@include FILE ARGUMENT@` by the file with `@ARGUMENT@` replaced."""

        def include(found: re.Match[str]) -> str:
            body = (HERE / "etc" / found[1]).read_text()
            return body.replace("@ARGUMENT@", found[2]).rstrip("\n")

        text = re.sub(r"^@include (\S+) (\S+)@$", include, text, flags=re.MULTILINE)
        return _PLACEHOLDER.sub(lambda found: self._values[found[1]], text)

    def _start_mariadb(self) -> None:
        my_cnf = self._layout.etc("my.cnf")
        my_cnf.write_text(self._render((HERE / "etc" / "_my.cnf").read_text()))
        installing = ("mariadb-install-db", f"--defaults-file={my_cnf}", "--auth-root-authentication-method=normal")
        self._run_once([Step("mariadb", (*installing, "--skip-test-db"))])
        server = software.find_program("mariadbd") or "mariadbd"
        self._processes.start(_MARIADB, [server, f"--defaults-file={my_cnf}"], {})
        names = [name for part in self._parts for name in part.databases]
        socket = str(self._layout.state / "mysql.sock")
        self._run("databases", self._inside("databases.py", socket, PASSWORD, *names))
        self._say("MariaDB is up")

    def _enter_catalogue(self) -> None:
        entries = [entry for part in self._parts for entry in part.catalogue]
        step = "catalogue-" + "-".join(sorted(self._groups))
        keystone = self._values["KEYSTONE"] + "/v3"
        self._run_once([Step(step, self._inside("catalogue.py", keystone, PASSWORD, REGION, *entries))])

    def _inside(self, script: str, *words: str) -> tuple[str, ...]:
        return (self._layout.program("python"), str(HERE / "inside" / script), *words)

    def _launch(self, part: Part) -> None:
        command = [self._render(word) for word in part.command]
        command[0] = software.find_program(command[0]) or command[0]
        self._processes.start(part.name, command, {name: self._render(value) for name, value in part.environment})

    def _await(self, part: Part) -> None:
        if part.url:
            self._processes.await_response(part.name, self._render(part.url))
            self._say(f"{part.name} is up")

    # steps ------------------------------------------------------------------------------------------------------------

    def _run_once(self, steps: Sequence[Step]) -> None:
        for step in steps:
            done = self._layout.state / f".done-{step.name}"
            if not done.exists():
                self._run(step.name, [self._render(word) for word in step.command])
                done.touch()

    def _run(self, name: str, command: Sequence[str]) -> None:
        program = software.find_program(command[0]) or command[0]
        log = self._layout.log(f"{_STEP}{name}")
        if self._processes.run(f"{_STEP}{name}", [program, *command[1:]], log, seconds=600.0):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SetupError(f"the step {name} failed; --fresh starts over:\n{tail}")

    def _stop(self, names: Collection[str] | None = None) -> None:
        """Stop these processes, or all; the database last."""
        names = self._processes.names() if names is None else names
        self._processes.stop([name for name in names if name != _MARIADB], seconds=3.0)
        self._processes.stop([name for name in names if name == _MARIADB], seconds=20.0)


def timestamped(report: Callable[[str], None]) -> Callable[[str], None]:
    """Wrap `report` to prefix messages with the seconds since this call."""
    started = time.monotonic()

    def print_timestamped(line: str) -> None:
        report(f"[{time.monotonic() - started:6.1f} s] {line}")

    return print_timestamped
