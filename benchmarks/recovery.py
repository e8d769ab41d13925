"""The recovery time after a kill: `python -m benchmarks.recovery`.

It uses a separate all-in-one, on SQLite and on PostgreSQL; each of its four processes is killed with SIGKILL, alone, as by the
kernel's OOM killer: its children remain. Web is ready again when its replacement listens and `/readyz` returns 200, a worker when
another one claims the first work item that the dead one leased. Kills of a worker without a lease are not counted. The system is
idle first, then under the load of eight clients.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil
import sqlalchemy as sa
import urllib3

from archelon.all_in_one import PROCESSES, AllInOne
from archelon.demo.stage import Stage
from occi_service import client
from tests.waiting import until

from .databases import databases
from .goals import Goals
from .installations import all_in_one

KILLS: Final = 10
CLIENTS: Final = 8
_BUNDLE: Final = Path(__file__).parents[1] / "orchestrators" / "hello"
_TYPE: Final = "http://schemas.archelon.org/occi/service#hello"
_FIRST_PORT: Final = 18300
_LEASED: Final = sa.text("SELECT topic, key, token, lease_owner FROM work WHERE lease_end IS NOT NULL")
_TOKEN: Final = sa.text("SELECT token, lease_end FROM work WHERE topic = :topic AND key = :key")


class Installation:
    """An all-in-one whose processes can be killed."""

    def __init__(self, system: AllInOne, stage: Stage) -> None:
        self._system = system
        self._stage = stage
        self._http = urllib3.PoolManager(retries=False, timeout=2.0)
        self._engines = {
            service: sa.create_engine(stage.state.database(service), isolation_level="AUTOCOMMIT")
            for service in ("service-manager", "cloud-controller")
        }

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()
        for engine in self._engines.values():
            engine.dispose()

    def kill(self, process: str) -> tuple[int, float]:
        """Kill the process itself; return its PID, and the time."""
        pid = self._system.supervisor.pid(process)
        os.kill(pid, signal.SIGKILL)
        return pid, time.monotonic()

    def web(self, process: str) -> float:
        """Kill a web process; return the seconds until its replacement is ready."""
        killed, at = self.kill(process)
        until(lambda: self._listens(process, killed), f"{process} listens again", pause=0.01)
        until(lambda: self.ready(process), f"{process} is ready again", pause=0.01)
        return time.monotonic() - at

    def worker(self, process: str, busy: Callable[[], None]) -> float | None:
        """Kill a worker that holds a lease; return the seconds until another takes it over, None if the lease had just ended.

        Args:
            busy: creates work for it.
        """
        service = process.removesuffix("-worker")
        pid = self._system.supervisor.pid(process)
        busy()
        with self._engines[service].connect() as connection:

            def held() -> sa.Row[tuple[str, str, int, str]] | None:
                rows = connection.execute(_LEASED).all()
                return next((row for row in rows if f":{pid}:" in row.lease_owner), None)

            found = until(held, f"{process} holds a lease", pause=0.0)
            _, at = self.kill(process)
            place = {"topic": found.topic, "key": found.key}
            until(lambda: not psutil.pid_exists(pid), "it is dead", pause=0.001)
            row = connection.execute(_TOKEN, place).one_or_none()
            if row is None or row.token != found.token or row.lease_end is None:
                until(lambda: self.ready(process), f"{process} is ready again")
                return None

            def taken() -> bool:
                row = connection.execute(_TOKEN, place).one_or_none()
                return row is None or row.token != found.token

            until(taken, f"{found.topic} of {process} is taken over", pause=0.01)
        seconds = time.monotonic() - at
        until(lambda: self.ready(process), f"{process} is ready again")
        return seconds

    def ready(self, process: str) -> bool:
        """Return whether the process reports that it is ready."""
        port = getattr(self._stage.state.ports(), process.removesuffix("-web").replace("-", "_"))
        try:
            # A new connection: one to the previous process may still be open.
            with urllib3.PoolManager(retries=False, timeout=2.0) as http:
                return http.request("GET", f"http://127.0.0.1:{port}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _listens(self, process: str, killed: int) -> bool:
        pid = self._system.supervisor.pid(process)
        if pid == killed:
            return False
        try:
            return any(each.status == psutil.CONN_LISTEN for each in psutil.Process(pid).net_connections("tcp"))
        except psutil.Error:
            return False

    @contextlib.contextmanager
    def load(self, clients: int) -> Iterator[None]:
        """Send requests from several clients to the web processes, one request after another."""
        ended = threading.Event()
        urls = [f"{self._stage.state.url(name)}/-/" for name in ("service_manager", "cloud_controller")]
        urls[1] = urls[1].replace("/-/", "/deploy/-/")
        header = {"X-Auth-Token": self._stage.state.token("tenant")}

        def ask(number: int) -> None:
            with urllib3.PoolManager(retries=False, timeout=10.0) as http:
                while not ended.is_set():
                    try:
                        http.request("GET", urls[number % 2], headers=header)
                    except urllib3.exceptions.HTTPError:
                        ended.wait(0.05)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


@dataclasses.dataclass(frozen=True, slots=True)
class Orders:
    """Creates work: orders an instance of hello, and deletes the previous one."""

    manager: client.Client

    def __call__(self) -> None:
        for each in list(self.manager.locations("/hello/")):
            with contextlib.suppress(client.ClientError):
                self.manager.delete(str(each))
        self.manager.create(_TYPE, {"hello.greeting": "Good morning"})


def main(kills: int = KILLS) -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    print(f"  {kills} kills each on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with databases() as made:
        for sort in made.sorts:
            urls = {service: made.fresh(sort) for service in ("service-manager", "cloud-controller")}
            with all_in_one(_BUNDLE, first_port=_FIRST_PORT, databases=urls, show=lambda _line: None) as (
                system,
                stage,
            ):
                installation = Installation(system, stage)
                try:
                    for clients in (0, CLIENTS):
                        _measure(installation, stage, sort, clients, kills, goals)
                finally:
                    installation.close()
    return goals


def _measure(installation: Installation, stage: Stage, sort: str, clients: int, kills: int, goals: Goals) -> None:
    with stage.connection("tenant").open() as manager, installation.load(clients):
        orders = Orders(manager)
        found: dict[str, list[float]] = {process: [] for process in PROCESSES}
        # Alternating between the processes: one that ends soon after its start is restarted with a growing delay.
        while any(len(each) < kills for each in found.values()):
            for process, each in found.items():
                seconds = (
                    installation.web(process) if process.endswith("-web") else installation.worker(process, orders)
                )
                each += [] if seconds is None or len(each) == kills else [seconds]
    for process, each in found.items():
        what = f"{sort}, {clients} clients: {process}"
        print(f"  {what:<55} {statistics.median(each):6.2f} s median {max(each):6.2f} s worst")
        if not clients:
            goals.check("recovery", statistics.median(each), what)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    main(parser.parse_args().kills)
