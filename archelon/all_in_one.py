"""The all-in-one: web and worker processes of the service manager and the cloud controller over one state directory.

A `Supervisor` keeps the four processes running. The orchestrators and nodes that they start outlive them, so a restart adopts
these. `down` stops those as well, after the workers, which would restart them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .errors import CommandError, Status
from .keys import ISSUERS, verification_keys
from .state_directory import StateDirectory
from .supervision import Program, Supervisor

Notify = Callable[[str], None]

#: The built-in region, where orchestrators run; `regions.yaml` in the state directory can add others.
REGION: Final = "local"
_ROOT: Final = Path(__file__).resolve().parent.parent
#: In the order in which `up` waits for them; the port of a web process is named after its service.
PROCESSES: Final = ("cloud-controller-web", "service-manager-web", "cloud-controller-worker", "service-manager-worker")
#: The services, by the names of their settings and databases.
_SERVICES: Final = ("service-manager", "cloud-controller")
#: What they import.
MODULES: Final = (
    "archelon.serving",
    "cloud_controller.app.worker",
    "cloud_controller.platforms.local.factory",
    "service_manager.__main__",
)
#: The line of a traceback that contains the error; the error's text may continue below it.
_ERROR: Final = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")
#: Our own packages that a bundle may import.
_BUNDLE_PACKAGES: Final = ("archelon_api", "archelon_core", "bundles", "occi_service", "sdk")
#: Runs a module of this installation's SDK, independently of the working directory and the environment.
_RUN: Final = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


class AllInOne:
    """The processes over one state directory.

    Args:
        notify: receives messages for the user; also called from other threads.
        shared: whether processes of several tenants may run even if this machine cannot isolate them.
    """

    def __init__(self, state: StateDirectory, notify: Notify, *, shared: bool = False) -> None:
        self.state = state
        self._shared = shared
        # The user's ARCHELON_… variables configure the command line, not the services.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHELON_")}
        paths = [str(_ROOT), *filter(None, [self._environment.get("PYTHONPATH")])]
        self._environment["PYTHONPATH"] = os.pathsep.join(paths)
        # Each thread's own arena of the allocator would be a further copy of free memory.
        parent = {"MALLOC_ARENA_MAX": "1", **self._environment}
        self.supervisor = Supervisor(notify, modules=MODULES, environment=parent)

    def prepare(self) -> None:
        """Begin with what `up` needs and the state directory does not. Raises OSError."""
        self.supervisor.prepare()

    def write_settings(self) -> None:
        """Write the services' settings files. Raises CommandError."""
        self.state.write_settings("service-manager", self._service_manager())
        self.state.write_settings("cloud-controller", self._cloud_controller())

    def up(self, *, timeout: float = 60.0, configured: bool = False) -> None:
        """Start the four processes and wait until they are ready. Raises CommandError, also if a port is in use.

        Args:
            timeout: seconds. configured: whether the settings files have just been written.
        """
        ports = self.state.ports()
        self._check_ports()
        if not configured:
            self.write_settings()
        # Whoever migrates keeps the memory of Alembic. What is wrong with a database, its services report.
        new = [service for service in _SERVICES if not (self.state.path / f"{service}.db").exists()]
        self.supervisor.run(
            *(self._program(f"{each}-web", each, ["db", "upgrade", "--of", each]) for each in new),
        )
        worker_port = ["--port", str(ports.cloud_controller_worker)]
        for process, service, arguments in (
            ("cloud-controller-web", "cloud-controller", ["cloud-controller"]),
            ("service-manager-web", "service-manager", ["service-manager"]),
            ("cloud-controller-worker", "cloud-controller", ["worker", "--of", "cloud-controller", *worker_port]),
            ("service-manager-worker", "service-manager", ["worker", "--of", "service-manager"]),
        ):
            self._start(process, service, arguments)
        deadline = time.monotonic() + timeout
        for process in PROCESSES:
            self._await_ready(process, deadline)

    def down(self, *, keep: bool = False) -> list[str]:
        """Stop the four processes and, unless `keep`, what they started; instances stay ordered. Returns what did not stop."""
        killed = self.supervisor.stop()
        left = [f"{name} had to be killed" for name in killed]
        if not keep:
            left += self.stop_tenant_processes()
        return left

    def stop_tenant_processes(self) -> list[str]:
        """Stop orchestrators and nodes; returns the names of those that did not stop. Call it only while no worker runs."""
        import concurrent.futures

        from cloud_controller.platforms.local.orders import HOSTS, ORCHESTRATOR

        # Orchestrators first, alone or in hosts: they recreate nodes that disappear.
        orchestrators: list[tuple[Any, Any]] = []
        others: list[tuple[Any, Any]] = []
        for found in self.running():
            is_first = found[1].instance == HOSTS or found[1].process == ORCHESTRATOR
            (orchestrators if is_first else others).append(found)
        left: list[str] = []
        with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
            for some in (orchestrators, others):
                ended = pool.map(lambda each: each[0].stop(each[1], wait=10.0), some)
                left += [str(name) for (_, name), done in zip(some, ended, strict=True) if not done]
        return left

    def running(self) -> Iterator[tuple[Any, Any]]:
        """Yield the launcher and the name of every registered process of the local regions."""
        from cloud_controller.platforms.local.launcher import Launcher

        regions = self.state.cloud / "regions"
        for directory in sorted(regions.iterdir()) if regions.is_dir() else []:
            launcher = Launcher(directory)
            for name in launcher.names():
                yield launcher, name

    def isolation(self) -> str:
        """Return how the worker isolates tenants' processes; call it after `up`. Raises CommandError if it is not reported."""
        url = f"http://127.0.0.1:{self.state.ports().cloud_controller_worker}"
        try:
            return str(json.loads(_readiness(url)[1])["checks"][f"isolation in {REGION}"])
        except (ValueError, KeyError) as error:
            raise CommandError(f"{url}/readyz does not report how tenants are isolated") from error

    # processes --------------------------------------------------------------------------------------------------------

    def _start(self, process: str, service: str, arguments: list[str]) -> None:
        self.supervisor.start(self._program(process, service, arguments))

    def _program(self, process: str, service: str, arguments: list[str]) -> Program:
        # The first variable is certainly shown by `ps`.
        environment = {"ARCHELON_CONFIG": str(self.state.path / f"{service}.yaml"), **self._environment}
        title = ["archelon", *arguments]
        return Program(process, "archelon.main:main", [arguments], title, environment, self.state.log(process))

    def _await_ready(self, process: str, deadline: float) -> None:
        name = process.removesuffix("-web").replace("-", "_")
        worker_url = f"http://127.0.0.1:{getattr(self.state.ports(), name)}"
        url = self.state.url(name) if process.endswith("-web") else worker_url
        while _readiness(url)[0] != 200:
            # A process that exits before it was ever ready will not recover by a restart.
            ended = [each for each in PROCESSES if self.supervisor.ends(each)]
            if ended or time.monotonic() > deadline:
                late = ended[0] if ended else process
                raise CommandError(
                    f"{late} does not become ready: {self.last_error(late)}; its log: {self.state.log(late)}"
                )
            # Until it listens; then the request itself waits.
            time.sleep(0.01)

    def last_error(self, process: str) -> str:
        """The last error in a process's log, or its last line that is not a log record."""
        try:
            lines = self.state.log(process).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it has no log"
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                return line.removeprefix("archelon: ")
            if isinstance(entry, dict) and entry.get("exception"):
                lines = str(entry["exception"]).strip().splitlines()
                return next((each for each in reversed(lines) if _ERROR.match(each)), lines[-1])
        return "its log has no error"

    def _check_ports(self) -> None:
        ports = self.state.ports()
        host = self.state.host()
        for where, port in ((host, ports.service_manager), (host, ports.cloud_controller)):
            with socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((where, port))
                except OSError as error:
                    raise CommandError(
                        f"port {port} of {where} is not available ({error.strerror}); free it: orchestrators that were "
                        "started from this state directory use it",
                        status=Status.CONFLICT,
                    ) from None

    # settings ---------------------------------------------------------------------------------------------------------

    def _service_manager(self) -> Mapping[str, Any]:
        from archelon_core.encryption import keys_from_file

        state, ports = self.state, self.state.ports()
        return {
            "database_url": state.database("service-manager"),
            "encryption_keys": ",".join(keys_from_file(state.keys / "encryption.keys")),
            "signing_key": state.key("service-manager").read_text(),
            "verification_keys": verification_keys({issuer: state.key(issuer, public=True) for issuer in ISSUERS}),
            "url": state.url(),
            "design_url": f"{state.url('cloud_controller')}/design",
            "realm_file": str(state.realm.resolve()),
            "bind": f"{_bracketed(state.host())}:{ports.service_manager}",
            "web_processes": 1,
            "worker_port": ports.service_manager_worker,
        }

    def _cloud_controller(self) -> Mapping[str, Any]:
        state = self.state
        ours = {
            "readable": [str(_ROOT / name) for name in _BUNDLE_PACKAGES],
            "refused_ports": list(dataclasses.astuple(state.ports())),
            "shared": self._shared,
        }
        further = {name: dict(region) for name, region in state.further_regions().items()}
        for region in further.values():
            if region.get("platform") == "local":
                region["settings"] = {**ours, **(region.get("settings") or {})}
        run = [sys.executable, "-u", "-c", _RUN, str(_ROOT)]
        return {
            "database_url": state.database("cloud-controller"),
            "state_directory": str(state.cloud.resolve()),
            "cloud_controller_bind": f"{_bracketed(state.host())}:{state.ports().cloud_controller}",
            "web_processes": 1,
            "cloud_controller_url": state.url("cloud_controller"),
            "regions": {
                REGION: {
                    "platform": "local",
                    "settings": {"runner": [*run, "sdk.serve"], "host": [*run, "sdk.host"], **ours},
                },
                **further,
            },
            "encryption_keys": str((state.keys / "encryption.keys").resolve()),
            "realm": str(state.realm.resolve()),
            "signing_key": str(state.key("cloud-controller").resolve()),
            # `dev` and `demo` have already checked the listening address.
            "force_embedded": True,
            "trusted_keys": {"service-manager": str(state.key("service-manager", public=True).resolve())},
        }


def _readiness(url: str) -> tuple[int, bytes]:
    """Return status and body of `/readyz`; 0 if nothing answers."""
    parts = urllib.parse.urlsplit(url)
    # http.client would be 2 MiB of memory for as long as the all-in-one runs.
    try:
        with socket.create_connection((str(parts.hostname), parts.port or 80), timeout=5.0) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as stream:
                head, _, body = stream.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), body
    except (OSError, IndexError, ValueError):
        return 0, b""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
