"""A cloud controller and its orchestrators for tests of the service manager: one process, real HTTP, a journal, faults.

    with FakeCloudProcess(tmp_path, keys=[signing_key.public], outputs={"web.endpoint": "http://x/{instance}"}) as cloud:
        cloud.fault("status", module="deploy", method="PUT", path="^/application/", count=2)
        ...  # order, kill, restart
        cloud.wait_for("disposal done", instance)
        entries = cloud.entries()
        assert entries.starts(instance) == 1
        assert entries.times("phase done", instance, phase="deploy", generation=1) == 1
        assert entries.violations == []
        assert cloud.left_over() == []

`cloud.url + "/design"` is the only setting that a service manager needs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import urllib3

from archelon_core.auth import VerificationKey, write_jwk_set
from tests.ports import free_port

from .faults import Fault, Kind
from .settings import Settings

_ROOT = Path(__file__).parents[2]
Entry = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class JournalEntries:
    """Requests and their effects, in order. See `journal` for the entries."""

    entries: list[Entry]

    def effects(self, name: str | None = None, instance: str | None = None, **fields: Any) -> list[Entry]:
        """Return the effects with this name and these fields."""
        return self._select("effect", **_named(name, instance), **fields)

    def requests(self, **fields: Any) -> list[Entry]:
        """Return the requests with these fields: module, method, path, action, instance, generation, status, answered."""
        return self._select("request", **fields)

    def calls(self, name: str | None = None, instance: str | None = None, **fields: Any) -> list[Entry]:
        """Return the attempts to call the service manager: `renew` and `report`."""
        return self._select("call", **_named(name, instance), **fields)

    def times(self, name: str, instance: str | None = None, **fields: Any) -> int:
        """Return how often an effect happened."""
        return len(self.effects(name, instance, **fields))

    def starts(self, instance: str) -> int:
        """Return the number of processes that the instance's orchestrator has had."""
        return self.times("application started", instance)

    def phases(self, instance: str) -> Counter[tuple[int, str]]:
        """Return how often each phase of each generation was completed."""
        return Counter([(each["generation"], each["phase"]) for each in self.effects("phase done", instance)])

    def seconds(self, instance: str | None = None) -> float:
        """Return the fake cloud's share of the orders' time, for benchmarks to subtract: starts, phases, disposals.

        It is a sum over instances: concurrent work counts several times.
        """
        names = ("application started", "phase done", "phase failed", "disposal done")
        return sum([float(each["seconds"]) for name in names for each in self.effects(name, instance)])

    @property
    def violations(self) -> list[str]:
        """Violations of the protocol by the service manager, and internal errors of the fake cloud."""
        return [f"{each['instance']}: {each['text']}" for each in self._select("violation")]

    def _select(self, what: str, **fields: Any) -> list[Entry]:
        wanted = {"what": what, **fields}
        return [each for each in self.entries if wanted.items() <= each.items()]


def _named(name: str | None, instance: str | None) -> dict[str, str]:
    given = {"name": name, "instance": instance}
    return {key: value for key, value in given.items() if value is not None}


class FakeCloudProcess:
    """Starts on `__enter__`, and is killed with its process group on `__exit__`. Logs to `fake_cloud.log` in `directory`.

    Args:
        keys: of the issuers whose tokens the cloud controller's modules accept.
        settings: see `Settings`.
    """

    def __init__(self, directory: Path, keys: Sequence[VerificationKey], **settings: Any) -> None:
        self._directory = directory
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        given = dataclasses.asdict(Settings(**settings))
        self._configuration = {"keys": write_jwk_set(keys), "port": port, "settings": given}
        self._process: subprocess.Popen[bytes] | None = None
        # The journal only grows and is polled often, so the entries are cached.
        self._read: list[Entry] = []
        self._reading = threading.Lock()
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60))

    def __enter__(self) -> FakeCloudProcess:
        with (self._directory / "fake_cloud.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.server", json.dumps(self._configuration)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                start_new_session=True,
            )
        try:
            self._await_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    # interface for tests ----------------------------------------------------------------------------------------------

    def entries(self) -> JournalEntries:
        """Return the journal since the start, or since `forget`."""
        self._fetch(0.0)
        return JournalEntries(list(self._read))

    def _fetch(self, wait: float) -> None:
        """Fetch new entries, waiting up to so many seconds for the first."""
        with self._reading:
            last = self._read[-1]["number"] if self._read else 0
            self._read += self._call("GET", f"/_journal?after={last}&wait={wait:.3f}")

    def forget(self) -> None:
        """Reset the journal; objects stay."""
        with self._reading:
            self._call("DELETE", "/_journal")
            self._read = []

    def state(self) -> dict[str, Any]:
        """Return the existing objects: applications with their orchestrators, stacks, delegations; and `cpu_seconds`."""
        found: dict[str, Any] = self._call("GET", "/_state")
        return found

    def left_over(self) -> list[str]:
        """Return every existing object of an instance."""
        state = self.state()
        return [*(f"/application/{each}" for each in state["applications"]), *state["stacks"], *state["delegations"]]

    def fault(self, kind: Kind, **fields: Any) -> None:
        """Set a fault; see `Fault`."""
        self._call("POST", "/_faults", [dataclasses.asdict(Fault(kind=kind, **fields))])

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that are set, with their remaining number of uses as `left`."""
        found: list[dict[str, Any]] = self._call("GET", "/_faults")
        return found

    def clear(self) -> None:
        """Clear all faults; delayed requests continue."""
        self._call("DELETE", "/_faults")

    def configure(self, **settings: Any) -> None:
        """Change settings, with effect on subsequent requests."""
        self._call("POST", "/_settings", settings)

    def crash(self, instance: str) -> None:
        """Crash an instance's orchestrator; the platform restarts it."""
        self._call("POST", f"/_crash/{instance}")

    def wait_for(self, effect: str, instance: str | None = None, *, timeout: float = 90.0, **fields: Any) -> Entry:
        """Wait until the journal contains an effect, and return it.

        Raises:
            TimeoutError: it does not after `timeout` seconds; the text contains the last entries.
        """

        def fits(entries: JournalEntries) -> Entry | None:
            return next(iter(entries.effects(effect, instance, **fields)), None)

        return self._wait(fits, f"{effect} {instance or ''} {fields or ''}", timeout)

    def wait_for_request(self, *, timeout: float = 90.0, **fields: Any) -> Entry:
        """Wait until the journal contains a request, and return it. Raises TimeoutError."""
        return self._wait(lambda entries: next(iter(entries.requests(**fields)), None), f"request {fields}", timeout)

    def wait_for_call(self, *, timeout: float = 90.0, **fields: Any) -> Entry:
        """Wait until the journal contains an attempt to call the service manager, and return it. Raises TimeoutError."""
        return self._wait(lambda entries: next(iter(entries.calls(**fields)), None), f"call {fields}", timeout)

    # ------------------------------------------------------------------------------------------------------------------

    def _wait(self, fits: Callable[[JournalEntries], Entry | None], what: str, timeout: float) -> Entry:
        end = time.monotonic() + timeout
        read, position = self._read, 0
        while True:
            if read is not self._read:
                # The journal was reset.
                read, position = self._read, 0
            seen = read[position:]
            position += len(seen)
            found = fits(JournalEntries(seen))
            if found is not None:
                return found
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not in the journal after {timeout} s: {what}. The last entries: {self._read[-5:]}")
            # Short, since concurrent readers wait for this request.
            self._fetch(min(left, 1.0))

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        response = self._http.request(method, self.url + path, body=body)
        if response.status != 200:
            raise ValueError(f"{method} {path}: {response.status} {response.data.decode()}")
        return json.loads(response.data)

    def _await_ready(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(90) or not self._process.stdout.readline():
                log = (self._directory / "fake_cloud.log").read_text(errors="replace")
                raise RuntimeError(f"the fake cloud did not start:\n{log[-4000:]}")

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self._http.clear()
        self._process = None
