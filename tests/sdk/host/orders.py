"""The platform's side of a host, for tests: writes orders and reads states."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_controller.platforms.local.logs import read_tail
from sdk.testing.http_fakes import Bench
from tests.sdk.processes import Process
from tests.waiting import until

MANIFEST = {
    "service_type": "http://schemas.example.org/occi/service#tested",
    "service_attributes": {"tested.url": "immutable"},
    "templates": {"infrastructure": {"deployment": "web.yaml"}},
}


class Platform:
    """The platform, for the host in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "orders").mkdir(parents=True)

    def order(self, bench: Bench, bundle: Path, more: Mapping[str, str] | None = None) -> str:
        """Order an instance; return the order's digest."""
        document = {"environment": {**bench.environment, **(more or {})}, "bundle": str(bundle)}
        return self.write(bench.instance, json.dumps(document).encode())

    def write(self, instance: str, content: bytes) -> str:
        path = self.root / "orders" / f"{instance}.json"
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.replace(path)
        self.ring()
        return hashlib.sha256(content).hexdigest()

    def withdraw(self, instance: str) -> None:
        (self.root / "orders" / f"{instance}.json").unlink()
        self.ring()

    def ring(self) -> None:
        # A host that does not run yet looks at its start.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell, contextlib.suppress(OSError):
            bell.sendto(b"", str(self.root / "host.sock"))

    def state(self, instance: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.root / "states" / f"{instance}.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def await_state(self, instance: str, state: str, digest: str) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            shown = self.state(instance)
            return shown if (shown.get("state"), shown.get("order")) == (state, digest) else {}

        return until(found, f"{instance} is {state}")

    def log(self, instance: str) -> str:
        return read_tail(self.root / "logs" / instance, 1 << 20).data.decode()


class HostProcess(Process):
    """A host as a process."""

    def __init__(self, platform: Platform, log: Path, *arguments: str) -> None:
        super().__init__(log, *arguments, directory=platform.root)
