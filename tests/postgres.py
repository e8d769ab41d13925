"""A private PostgreSQL server for one test run: own directory, own port on loopback, gone with the run."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType


class PostgresServer:
    """Starts on `__enter__`, gives its URL, stops on `__exit__`.

    PostgreSQL refuses to run as root; as root the server runs as user `postgres` or, without one, `nobody`.
    """

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._data = directory / "data"
        self._user: str | None = None
        if os.getuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in known else "nobody"

    @staticmethod
    def programs() -> Path | None:
        """The directory that holds initdb and pg_ctl, the newest version's; None without one."""
        on_path = shutil.which("initdb")
        if on_path:
            return Path(on_path).parent
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        return found[-1].parent if found else None

    def __enter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if self._user:
            # pytest's directories are root's alone; the server needs to pass through them.
            for directory in (self._directory, *self._directory.parents):
                if directory == Path("/tmp").parent or directory.stat().st_uid != 0:
                    break
                directory.chmod(directory.stat().st_mode | 0o011)
            shutil.chown(self._directory, self._user)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        options += " -c max_connections=200"
        log = self._directory / "server.log"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(log), "-o", options, "-w", "start")
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # pg_ctl's server inherits its streams; a pipe would never close.
        log = self._directory / "commands.log"
        with log.open("ab") as stream:
            done = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, user=self._user, cwd="/", env={"LC_ALL": "C.UTF-8"}
            )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{log.read_text(errors='replace')}")
