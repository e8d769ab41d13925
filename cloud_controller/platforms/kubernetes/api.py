"""Client of one cluster's API: requests and watches in plain JSON, over the official client's connections and credentials.

Objects stay plain values from the template to the wire: an apply must send exactly the fields that the template sets, and the
typed models would add fields of their own and reject unknown ones (docs/adr/016-kubernetes-in-plain-json.md).

Every request is repeatable: it reads, applies, or deletes by name. Requests that a busy or restarting server rejects are retried
here a few times within a step's lease; the work queue retries the rest.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import urllib3
from kubernetes import client, config
from kubernetes.config import ConfigException

from archelon_core.backoff import Backoff
from archelon_core.transactions import forbid_in_transaction

Json = dict[str, Any]

APPLY: Final = "application/apply-patch+yaml"
#: The field manager of every apply.
_MANAGER: Final = "archelon"
MERGE: Final = "application/merge-patch+json"

#: Connect and read timeouts in seconds: a step has a lease of ten.
_CONNECT: Final = 2.0
_READ: Final = 5.0
#: Attempts for one request, and the seconds between them.
_ATTEMPTS: Final = 4
_PAUSES: Final = Backoff(0.1, longest=1.0)
#: Statuses worth a retry: conflicting writers, too many requests, server errors.
_RETRYABLE: Final = frozenset((409, 429, 500, 502, 503, 504))
#: Largest accepted response, and largest event of a watch, in bytes.
_SIZE: Final = 64 << 20
_LINE: Final = 16 << 20


class ApiError(Exception):
    """The API server rejected the request. The text is the server's: it names objects and fields, never a secret's value.

    Args:
        status: HTTP status. reason: Kubernetes' reason, such as `Forbidden`.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or reason or f"status {status}")
        self.status = status
        self.reason = reason

    @property
    def final(self) -> bool:
        """Whether a retry of the same request would fail as well."""
        return 400 <= self.status < 500 and self.status not in (401, 408, 409, 410, 429)


class ObjectNotFoundError(ApiError):
    """The object, or its kind, does not exist."""


class GoneError(ApiError):
    """The version of a watch has expired; list again."""


class UnreachableError(ApiError):
    """The server does not respond, or not in time."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Unreachable", message)


class ClusterConnection(Protocol):
    """Makes one HTTP request and returns the response with its body unread. Raises urllib3's errors."""

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse: ...


class Api:
    """A cluster's API server. Thread-safe.

    Args:
        connection: makes requests.
        sleep: waits between attempts.
    """

    def __init__(self, connection: ClusterConnection, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._connection = connection
        self._sleep = sleep

    # objects ----------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: str | int) -> Json:
        """Return an object or a list. Raises ApiError."""
        return self._json("GET", path, query)

    def find(self, path: str) -> Json | None:
        """Return an object, or None if it does not exist. Raises ApiError."""
        try:
            return self.get(path)
        except ObjectNotFoundError:
            return None

    def apply(self, path: str, wanted: Json, *, dry_run: bool = False) -> Json:
        """Apply an object server-side: set the fields of `wanted`, remove other fields of earlier applies. Raises ApiError."""
        # Forced: the template takes precedence over manual changes.
        query: dict[str, str | int] = {"fieldManager": _MANAGER, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        return self._json("PATCH", path, query, wanted, APPLY)

    def merge(self, path: str, change: Json) -> Json:
        """Change some fields of an existing object. Raises ApiError."""
        return self._json("PATCH", path, {"fieldManager": _MANAGER}, change, MERGE)

    def delete(self, path: str, *, uid: str = "") -> None:
        """Delete an object if it exists (with `uid`: if it is still that one), and what it owns. Raises ApiError."""
        options: Json = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        with contextlib.suppress(ObjectNotFoundError):
            self._json("DELETE", path, {}, options, "application/json")

    def text(self, path: str, **query: str | int) -> bytes:
        """Return a response that is not JSON, such as a log. Raises ApiError."""
        return self._send("GET", path, query)

    # watches ----------------------------------------------------------------------------------------------------------

    def watch(self, path: str, *, version: str, seconds: int, **query: str) -> Iterator[Json]:
        """Yield events (`type`, `object`) from a version on, until the server ends the watch after `seconds`.

        Raises:
            GoneError: the version has expired. ApiError: the request is rejected, or the connection is lost.
        """
        parameters: dict[str, str | int] = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": seconds,
        }
        # The server ends the watch first, so a connection silent for longer is dead.
        timeout = urllib3.Timeout(connect=_CONNECT, read=seconds + _READ)
        try:
            answer = self._connection("GET", _url(path, parameters), _headers(), None, timeout)
            try:
                if answer.status != 200:
                    raise _refusal(answer.status, answer.read(_LINE))
                for line in _lines(answer):
                    event: Json = json.loads(line)
                    if event.get("type") == "ERROR":
                        status = event.get("object", {})
                        raise _error(int(status.get("code") or 500), status)
                    yield event
            finally:
                # Not `release_conn`: unread events would be taken for the next response.
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise UnreachableError(f"watch of {path} lost: {type(problem).__name__}") from problem
        except ValueError as problem:
            raise UnreachableError(f"watch of {path} did not return JSON") from problem

    def _json(
        self, method: str, path: str, query: Mapping[str, str | int], body: Json | None = None, content_type: str = ""
    ) -> Json:
        answer = self._send(method, path, query, body, content_type)
        try:
            found: Json = json.loads(answer)
        except ValueError as problem:
            what = f"{method} {path}"
            raise UnreachableError(f"the response to {what} is not JSON; is it a Kubernetes API?") from problem
        return found

    def _send(
        self, method: str, path: str, query: Mapping[str, str | int], body: Json | None = None, content_type: str = ""
    ) -> bytes:
        """Return the response body; retry errors that may pass."""
        content = None if body is None else json.dumps(body).encode()
        url, headers = _url(path, query), _headers(content_type)
        for attempt in range(1, _ATTEMPTS + 1):
            wait = _PAUSES.delay(attempt)
            try:
                status, answer, retry_after = self._once(method, url, headers, content)
                if status < 300:
                    return answer
                problem = _refusal(status, answer)
                if status not in _RETRYABLE:
                    raise problem
                wait = max(wait, min(retry_after, _PAUSES.longest))
            except UnreachableError as error:
                problem = error
            if attempt < _ATTEMPTS:
                self._sleep(wait)
        raise problem

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes, float]:
        """Send once; return status, body, and the seconds of `Retry-After`."""
        forbid_in_transaction("a call to Kubernetes")
        try:
            answer = self._connection(method, url, headers, body, urllib3.Timeout(connect=_CONNECT, read=_READ))
            try:
                content = answer.read(_SIZE)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise UnreachableError(f"the Kubernetes API does not respond: {type(problem).__name__}") from problem
        after = answer.headers.get("Retry-After", "")
        return answer.status, content, float(after) if after.isdigit() else 0.0


def connect(kubeconfig: str = "", context: str = "") -> OfficialConnection:
    """Connect with a kubeconfig, or without one with the service account of the pod that this process runs in.

    Raises:
        ValueError: neither is present, or the file cannot be read.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig:
            load: Any = config.load_kube_config
            selected = context or None
            load(config_file=kubeconfig, context=selected, client_configuration=configuration, persist_config=False)
        else:
            load = config.load_incluster_config
            load(client_configuration=configuration)
    except (ConfigException, OSError) as problem:
        where = f"the kubeconfig {kubeconfig}" if kubeconfig else "the pod's own service account"
        raise ValueError(f"cannot connect with {where}: {problem}; set `kubeconfig` for the region") from problem
    # `Api` retries: it knows which requests are repeatable and for how long.
    configuration.retries = False
    configuration.connection_pool_maxsize = 64
    return OfficialConnection(client.ApiClient(configuration))


class OfficialConnection:
    """The official client's connection pools, TLS and credentials; it renews expiring tokens."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._host = client.configuration.host.rstrip("/")

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        sent = dict(headers)
        self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
        answer: urllib3.BaseHTTPResponse = self._client.rest_client.pool_manager.request(
            method, self._host + path, headers=sent, body=body, timeout=timeout, preload_content=False, redirect=False
        )
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _headers(content_type: str = "") -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "archelon"}
    if content_type:
        headers["Content-Type"] = content_type
    return headers


def _url(path: str, query: Mapping[str, str | int]) -> str:
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    while chunk := answer.read1(1 << 16):
        rest += chunk
        *whole, rest = rest.split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(rest) > _LINE:
            raise ValueError("an event is too long")


def _refusal(status: int, body: bytes) -> ApiError:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    return _error(status, document if isinstance(document, dict) else {})


def _error(status: int, document: Json) -> ApiError:
    kind = ObjectNotFoundError if status == 404 else GoneError if status == 410 else ApiError
    message = str(document.get("message") or f"the API server returned status {status}")
    return kind(status, str(document.get("reason") or ""), message)
