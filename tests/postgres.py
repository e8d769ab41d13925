"""A private PostgreSQL server for one test run, with its own directory and port on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from tests.ports import free_port


class PostgresServer:
    """Starts on `__enter__`, returns its URL, stops on `__exit__`.

    Args:
        host: listen address; an address other than loopback accepts every client that reaches it.
        preload: a library for `shared_preload_libraries`.

    PostgreSQL refuses to run as root; as root the server runs as user `postgres` or, without one, `nobody`.
    """

    def __init__(self, programs: Path, directory: Path, *, host: str = "127.0.0.1", preload: str = "") -> None:
        self._host = host
        self._preload = preload
        self._options = ""
        self._programs = programs
        self._directory = directory
        self._data = directory / "data"
        self._user: str | None = None
        if os.getuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in known else "nobody"

    @staticmethod
    def programs() -> Path | None:
        """Return the directory of the newest version's initdb and pg_ctl; None if there is none."""
        on_path = shutil.which("initdb")
        if on_path:
            return Path(on_path).parent
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        return found[-1].parent if found else None

    def __enter__(self) -> str:
        port = free_port(self._host)
        if self._user:
            # Only root may enter pytest's directories; the server's user has to traverse them.
            for directory in (self._directory, *self._directory.parents):
                if directory == Path("/tmp").parent or directory.stat().st_uid != 0:
                    break
                directory.chmod(directory.stat().st_mode | 0o011)
            shutil.chown(self._directory, self._user)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        if self._host != "127.0.0.1":
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 0.0.0.0/0 trust\n")
        self._options = f"-p {port} -c listen_addresses={self._host} -c unix_socket_directories='' -c fsync=off"
        self._options += f" -c max_connections=200 -c shared_preload_libraries='{self._preload}'"
        self.start()
        return f"postgresql+psycopg://postgres@{self._host}:{port}/postgres"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def restart(self) -> None:
        """Stop as a crash does, and start at the same address with the committed data."""
        self.stop()
        self.start()

    def start(self) -> None:
        """Start at the same address with the committed data."""
        log = self._directory / "server.log"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(log), "-o", self._options, "-w", "start")

    def stop(self) -> None:
        """Stop as a crash does, breaking every connection; do nothing if it is not running."""
        if not (self._data / "postmaster.pid").exists():
            return
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # The server inherits pg_ctl's streams; a pipe would never close.
        log = self._directory / "commands.log"
        with log.open("ab") as stream:
            done = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, user=self._user, cwd="/", env={"LC_ALL": "C.UTF-8"}
            )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{log.read_text(errors='replace')}")
