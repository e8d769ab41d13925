"""Everything on one machine: the service manager and the cloud controller, web and worker of each, over one state directory.

Four processes, kept running by a `Supervisor`; what they start in turn (orchestrators, nodes) outlives them, so that a restart
finds it and goes on. `down` ends that too: first the workers, so that nobody starts again what is being ended.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .errors import CommandError, Status
from .keys import ISSUERS, verification_keys
from .state_directory import StateDirectory
from .supervision import Program, Supervisor

Told = Callable[[str], None]

#: The region of an all-in-one where orchestrators run; a file in the state directory can name others.
REGION: Final = "local"
_ROOT: Final = Path(__file__).resolve().parent.parent
#: In the order in which they are waited for; a web process' port has its service's name.
PROCESSES: Final = (
    "cloud-controller-web",
    "service-manager-web",
    "cloud-controller-worker",
    "service-manager-worker",
)
#: The line of a traceback that says what was wrong; an error's own text may go on below it.
_ERROR: Final = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")
#: Packages of ours that a bundle runs with.
_OF_BUNDLES: Final = ("archelon_api", "archelon_core", "bundles", "occi_service", "sdk")
#: Runs a bundle with this installation's SDK, whatever directory and environment it is started in.
_RUN_BUNDLE: Final = "; ".join(
    [
        "import runpy, sys",
        "sys.path.insert(0, sys.argv.pop(1))",
        "runpy.run_module('sdk.serve', run_name='__main__', alter_sys=True)",
    ]
)


class AllInOne:
    """The processes over one state directory.

    Args:
        told: takes lines for people, from other threads too.
        shared: whether several tenants' processes may run at once where this machine cannot keep them apart.
        clock: seconds that only grow. sleep: waits.
    """

    def __init__(
        self,
        state: StateDirectory,
        told: Told,
        *,
        shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.state = state
        self._shared = shared
        self._told = told
        self._clock = clock
        self._sleep = sleep
        self.supervisor = Supervisor(told, clock=clock)

    def up(self, *, patience: float = 60.0) -> None:
        """Start the four, wait until each says that it is ready.

        Raises:
            CommandError: a port is taken, or something does not become ready; it says where its log is.
        """
        ports = self.state.ports()
        self._check_ports()
        self.state.write_settings("service-manager", self._service_manager())
        self.state.write_settings("cloud-controller", self._cloud_controller())
        worker_port = ["--port", str(ports.cloud_controller_worker)]
        self._start("cloud-controller-web", "cloud-controller", ["cloud-controller"])
        self._start("service-manager-web", "service-manager", ["service-manager"])
        self._start("cloud-controller-worker", "cloud-controller", ["worker", "--of", "cloud-controller", *worker_port])
        self._start("service-manager-worker", "service-manager", ["worker", "--of", "service-manager"])
        until = self._clock() + patience
        for process in PROCESSES:
            self._await_ready(process, until)

    def down(self, *, keep: bool = False) -> list[str]:
        """End the four and, unless `keep`, what they started; what could not be ended, in words. Instances stay ordered."""
        killed = self.supervisor.stop()
        left = [f"{name} had to be killed" for name in killed]
        if not keep:
            left += self.end_what_runs()
        return left

    def end_what_runs(self) -> list[str]:
        """End orchestrators and nodes; what could not be ended, in words. Call it while no worker runs."""
        # Orchestrators first: one that sees its nodes go would have them made again.
        found = list(self.running())
        orchestrators = [each for each in found if each[1].process == "orchestrator"]
        others = [each for each in found if each[1].process != "orchestrator"]
        left: list[str] = []
        with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
            for some in (orchestrators, others):
                ended = pool.map(lambda each: each[0].stop(each[1], wait=10.0), some)
                left += [str(name) for (_, name), done in zip(some, ended, strict=True) if not done]
        return left

    def running(self) -> Iterator[tuple[Any, Any]]:
        """Every process of the local region that is booked: its launcher and its name."""
        from cloud_controller.platforms.local.launcher import Launcher

        regions = self.state.cloud / "regions"
        for directory in sorted(regions.iterdir()) if regions.is_dir() else []:
            launcher = Launcher(directory)
            for name in launcher.names():
                yield launcher, name

    def isolation(self) -> str:
        """What keeps tenants' processes apart here, as the worker that starts them found it. Call it once `up` is done.

        Raises:
            CommandError: it does not say.
        """
        import urllib3

        url = f"http://127.0.0.1:{self.state.ports().cloud_controller_worker}/readyz"
        try:
            with urllib3.PoolManager(retries=False, timeout=10.0) as pool:
                return str(pool.request("GET", url).json()["checks"][f"isolation in {REGION}"])
        except (urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
            raise CommandError(f"{url} does not say how tenants are kept apart: {type(error).__name__}") from error

    # processes --------------------------------------------------------------------------------------------------------

    def _start(self, process: str, service: str, arguments: list[str]) -> None:
        # Not the whole environment: a person's ARCHELON_… are the command line's, and no settings of these.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ARCHELON_")}
        environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]),
            "ARCHELON_CONFIG": str(self.state.path / f"{service}.yaml"),
        }
        command = [sys.executable, "-m", "archelon", *arguments]
        self.supervisor.start(Program(process, command, environment, self.state.log(process)))

    def _await_ready(self, process: str, until: float) -> None:
        import urllib3

        port = getattr(self.state.ports(), process.removesuffix("-web").replace("-", "_"))
        host = _reached(self.state.host()) if process.endswith("-web") else "127.0.0.1"
        with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
            while True:
                try:
                    if pool.request("GET", f"http://{host}:{port}/readyz").status == 200:
                        return
                except urllib3.exceptions.HTTPError:
                    pass
                # Nothing that ends before it was ever ready comes right by being started again.
                ended = [each for each in PROCESSES if self.supervisor.ends(each)]
                if ended or self._clock() > until:
                    late = ended[0] if ended else process
                    raise CommandError(
                        f"{late} does not become ready: {self.last_word(late)}; its log: {self.state.log(late)}"
                    )
                self._sleep(0.05)

    def last_word(self, process: str) -> str:
        """What a process' log has to say about its end: the last error, or the last line that is no log line."""
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
                told = [each for each in str(entry["exception"]).splitlines() if _ERROR.match(each)]
                return told[-1] if told else str(entry["exception"]).strip().splitlines()[-1]
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
                        f"port {port} of {where} cannot be had ({error.strerror}); free it: orchestrators that were "
                        "started from this state directory know it",
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
            "bind": f"{_reached(state.host(), call=False)}:{ports.service_manager}",
            "web_processes": 1,
            "worker_port": ports.service_manager_worker,
        }

    def _cloud_controller(self) -> Mapping[str, Any]:
        state = self.state
        ours = {
            "readable": [str(_ROOT / name) for name in _OF_BUNDLES],
            "refused_ports": list(dataclasses.astuple(state.ports())),
            "shared": self._shared,
        }
        further = {name: dict(region) for name, region in state.further_regions().items()}
        for region in further.values():
            if region.get("platform") == "local":
                region["settings"] = {**ours, **(region.get("settings") or {})}
        return {
            "database_url": state.database("cloud-controller"),
            "state_directory": str(state.cloud.resolve()),
            "cloud_controller_bind": f"{_reached(state.host(), call=False)}:{state.ports().cloud_controller}",
            "cloud_controller_url": state.url("cloud_controller"),
            "regions": {
                REGION: {
                    "platform": "local",
                    "settings": {"runner": [sys.executable, "-u", "-c", _RUN_BUNDLE, str(_ROOT)], **ours},
                },
                **further,
            },
            "encryption_keys": str((state.keys / "encryption.keys").resolve()),
            "realm": str(state.realm.resolve()),
            "signing_key": str(state.key("cloud-controller").resolve()),
            # Whoever starts an all-in-one has been asked already.
            "force_embedded": True,
            "trusted_keys": {"service-manager": str(state.key("service-manager", public=True).resolve())},
        }


def _reached(host: str, *, call: bool = True) -> str:
    if call and host in ("0.0.0.0", "::"):  # nosec  # noqa: S104 - an address to listen on is not one to call
        host = "127.0.0.1"
    return f"[{host}]" if ":" in host else host
