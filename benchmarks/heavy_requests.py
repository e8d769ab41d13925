"""The latency that one tenant's heavy requests cause for others: `python -m benchmarks.heavy_requests`.

It uses a separate cloud controller with its real web process. Some tenants send small writes one after another; then again while
another tenant has documents validated, as many concurrently as permitted, each of the maximum size, or parsed to its end. The
result is the ratio of the others' p95 latency with and without, alternating.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from archelon_api import design, tokens
from archelon_core import auth
from tests.ports import free_port

from .goals import Goals, p95

#: p95 of the others' latency beside a heavy client, relative to the same without it.
_OTHERS: Final = 2
_HEAVY: Final = 4
_SECONDS: Final = 5.0
_TURNS: Final = 4
_TIMEOUT: Final = 120.0
_SIZE: Final = 900 * 1024

#: Documents by description: format and content.
DOCUMENTS: Final[Mapping[str, tuple[str, str]]] = {
    "one line repeated": ("infrastructure", "nodes:\n" + "- {name: a, type: t}\n" * (_SIZE // 22)),
    "as much as is read": (
        "infrastructure",
        "infra_name: a\n'node_def:t':\n- resource: {type: process, command: ["
        + "a, " * 9000
        + "]}\nnodes:\n"
        + "".join([f"- {{name: n{number}, type: t}}\n" for number in range(900)]),
    ),
    "a manifest of one line repeated": ("manifest", "attributes:\n" + "  a: {type: string}\n" * (_SIZE // 20)),
}


class Tenant:
    """A client with its own token; used by one thread.

    Args:
        url: of the cloud controller.
    """

    def __init__(self, url: str, token: str) -> None:
        self._http = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=1)
        self._url = f"{url}/design{design.VALIDATION.location}default"
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/occi+json",
            "Accept": "application/occi+json",
        }

    def __enter__(self) -> Tenant:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.clear()

    def write(self) -> int:
        """Create or replace the tenant's own entity, in a transaction; return the status."""
        kind = design.VALIDATION.scheme + design.VALIDATION.term
        return self._send("PUT", self._url, {"kind": kind}).status

    def remove(self) -> int:
        """Delete it; return the status."""
        return self._send("DELETE", self._url, None).status

    def validate(self, document_format: str, content: str) -> urllib3.BaseHTTPResponse:
        """Validate a document."""
        attributes = {"org.archelon.document.format": document_format, "org.archelon.document.content": content}
        action = {"action": design.VALIDATE.scheme + design.VALIDATE.term, "attributes": attributes}
        return self._send("POST", f"{self._url}?action={design.VALIDATE.term}", action)

    def _send(self, method: str, url: str, document: Mapping[str, Any] | None) -> urllib3.BaseHTTPResponse:
        body = None if document is None else json.dumps(document)
        return self._http.request(method, url, body=body, headers=self._headers)


class ServedCloud:
    """A cloud controller's web process, with a separate database and directory.

    Args:
        directory: for all files. database_url: by default SQLite in that directory.

    Attributes:
        url: of the cloud controller. pid: of the parent of its processes.
    """

    def __init__(self, directory: Path, database_url: str = "") -> None:
        private = ed25519.Ed25519PrivateKey.generate()
        ours = ed25519.Ed25519PrivateKey.generate()
        signing = auth.SigningKey.of(private, issuer="service-manager")
        self._issuer = auth.TokenIssuer(
            signing,
            keys=auth.VerificationKeys([signing.public]),
            instances=_NoInstances(),
            revocations=auth.MemoryRevocations(time.time),
            clock=time.time,
        )
        _write_key(directory / "own.pem", ours, public=False)
        _write_key(directory / "trusted.pem", private, public=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "DATABASE_URL": database_url or f"sqlite:///{directory}/state.db",
            "STATE_DIRECTORY": str(directory / "state"),
            "CLOUD_CONTROLLER_BIND": f"127.0.0.1:{port}",
            "CLOUD_CONTROLLER_URL": self.url,
            "SIGNING_KEY": str(directory / "own.pem"),
            "TRUSTED_KEYS": json.dumps({"service-manager": str(directory / "trusted.pem")}),
        }
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "archelon", "cloud-controller"],
                env={**os.environ, **{f"ARCHELON_{name}": value for name, value in settings.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._log = directory / "log"
        self.pid = self._process.pid

    def __enter__(self) -> ServedCloud:
        until = time.monotonic() + _TIMEOUT
        while not _ready(self.url):
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise RuntimeError(f"the cloud controller does not answer: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(_TIMEOUT)

    def tenant(self, name: str) -> Tenant:
        """Return a tenant's client."""
        return Tenant(self.url, self.token(name))

    def token(self, tenant: str) -> str:
        """Return a token with which the service manager acts for a tenant."""
        return self._issuer.for_service(
            "benchmark", tenant_id=auth.TenantId(tenant), audience=tokens.AUDIENCE_CLOUD_CONTROLLER
        )


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory, ServedCloud(Path(directory)) as cloud:
        for name, document in DOCUMENTS.items():
            alone: list[float] = []
            beside: list[float] = []
            answers: dict[int, int] = {}
            # Alternating, so that other load on the machine affects both alike.
            for _ in range(_TURNS):
                alone += _others(cloud)
                with _heavy_client(cloud, document) as counted:
                    beside += _others(cloud)
                for status, number in counted.items():
                    answers[status] = answers.get(status, 0) + number
            print(f"  {name}: {len(document[1]) / 1e3:.0f} kB; heavy answers by status {answers}")
            print(f"    others alone   {_in_ms(alone)}")
            print(f"    others beside  {_in_ms(beside)}")
            goals.check("heavy", p95(beside) / p95(alone), name)
    return goals


def _others(cloud: ServedCloud) -> list[float]:
    """Return the seconds of each request of the other tenants."""
    found: list[list[float]] = [[] for _ in range(_OTHERS)]
    threads = [threading.Thread(target=_write, args=(cloud, number, found[number])) for number in range(_OTHERS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [seconds for each in found for seconds in each]


def _write(cloud: ServedCloud, number: int, found: list[float]) -> None:
    with cloud.tenant(f"other-{number}") as tenant:
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            for request, statuses in ((tenant.write, (201,)), (tenant.remove, (200,))):
                begun = time.perf_counter()
                status = request()
                found.append(time.perf_counter() - begun)
                if status not in statuses:
                    raise RuntimeError(f"a write returned {status}")
            # As people do: a client without pauses measures its own queue.
            time.sleep(0.005)


@contextlib.contextmanager
def _heavy_client(cloud: ServedCloud, document: tuple[str, str]) -> Iterator[dict[int, int]]:
    stop = threading.Event()
    counted: dict[int, int] = {}

    def ask() -> None:
        with cloud.tenant("heavy") as tenant:
            tenant.write()
            while not stop.is_set():
                answer = tenant.validate(*document)
                counted[answer.status] = counted.get(answer.status, 0) + 1
                if answer.status == 429:
                    # Respect the server's Retry-After.
                    stop.wait(float(answer.headers["Retry-After"]))

    threads = [threading.Thread(target=ask) for _ in range(_HEAVY)]
    for each in threads:
        each.start()
    try:
        yield counted
    finally:
        stop.set()
        for each in threads:
            each.join()


class _NoInstances:
    def exists(self, instance_id: str, tenant_id: auth.TenantId) -> bool:
        """Return that no instance exists."""
        return False


def _write_key(path: Path, key: ed25519.Ed25519PrivateKey, *, public: bool) -> None:
    pem = serialization.Encoding.PEM
    if public:
        data = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    else:
        data = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.touch(0o600)
    path.write_bytes(data)


def _ready(url: str) -> bool:
    try:
        with urllib3.PoolManager(retries=False, timeout=5.0) as http:
            return http.request("GET", f"{url}/healthz").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _in_ms(values: Sequence[float]) -> str:
    return f"{statistics.median(values) * 1e3:6.1f} ms p50, {p95(values) * 1e3:6.1f} ms p95 ({len(values)} requests)"


if __name__ == "__main__":
    main()
