"""One cluster's API: requests and watches in plain JSON, over the official client's configuration, credentials and connections.

In: a method and a path. Out: what the server answered, or an error that says whether asking again can help. Objects stay plain
values from the template to the wire: an apply must send exactly the fields that somebody wrote, and the typed models would add
their own and refuse those that they do not know (docs/adr/016-kubernetes-in-plain-json.md).

Every request here can be repeated: it reads, applies, or deletes by name. So what a busy or restarting server refuses is asked
again here, a few times within a step's lease; what goes beyond that is the work queue's to repeat.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import urllib3
from kubernetes import client, config
from kubernetes.config import ConfigException

from archelon_core.backoff import Backoff
from archelon_core.transactions import forbid_in_transaction

Json = dict[str, Any]

APPLY: Final = "application/apply-patch+yaml"
#: The field manager that everything is applied as.
_MANAGER: Final = "archelon"
MERGE: Final = "application/merge-patch+json"

#: Seconds that connecting, and waiting for an answer, may take: a step has a lease of ten.
_CONNECT: Final = 2.0
_READ: Final = 5.0
#: How often a request is made at most, and the seconds in between.
_ATTEMPTS: Final = 4
_PAUSES: Final = Backoff(0.1, longest=1.0)
#: Answers that are worth asking again: conflict of two writers, too many requests, trouble of the server.
_AGAIN: Final = frozenset((409, 429, 500, 502, 503, 504))
#: An answer larger than this is none that we asked for.
_SIZE: Final = 64 << 20
_LINE: Final = 16 << 20


class ApiError(Exception):
    """The API server refuses. The text is its own, which names objects and fields and holds no secret's value.

    Args:
        status: HTTP's. reason: a word, such as `Forbidden`.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or reason or f"status {status}")
        self.status = status
        self.reason = reason

    @property
    def final(self) -> bool:
        """Whether asking the same again gives the same answer."""
        return 400 <= self.status < 500 and self.status not in (401, 408, 409, 410, 429)


class NotFoundError(ApiError):
    """There is no such object, or no such kind."""


class GoneError(ApiError):
    """A watch cannot go on from there: everything is to be listed again."""


class UnreachableError(ApiError):
    """Nobody answers, or not in time."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Unreachable", message)


class Connection(Protocol):
    """Makes one HTTP request; the answer's body is not read yet. Raises urllib3's errors."""

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse: ...


@dataclass(frozen=True)
class _Request:
    """What is asked of the server, and can be asked again."""

    method: str
    path: str
    query: Mapping[str, str | int]
    body: Json | None = field(default=None, repr=False)
    content_type: str | None = None


class Api:
    """A cluster's API server. Thread-safe.

    Args:
        connection: makes requests.
        sleep: waits between attempts.
    """

    def __init__(self, connection: Connection, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._connection = connection
        self._sleep = sleep

    # objects ----------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: str | int) -> Json:
        """An object or a list. Raises ApiError."""
        return self._json(_Request("GET", path, query))

    def find(self, path: str) -> Json | None:
        """An object, or None where there is none. Raises ApiError."""
        try:
            return self.get(path)
        except NotFoundError:
            return None

    def apply(self, path: str, wanted: Json, *, dry_run: bool = False) -> Json:
        """Server-side apply: the object has the fields of `wanted`, and loses those that an earlier apply of ours had set.

        Raises:
            ApiError: it is refused.
        """
        # Forced: what a template says holds, also where somebody has changed it by hand since.
        query: dict[str, str | int] = {"fieldManager": _MANAGER, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        return self._json(_Request("PATCH", path, query, wanted, APPLY))

    def merge(self, path: str, change: Json) -> Json:
        """Change some fields of an object that is there. Raises ApiError."""
        return self._json(_Request("PATCH", path, {"fieldManager": _MANAGER}, change, MERGE))

    def delete(self, path: str, *, uid: str = "") -> None:
        """Delete an object, if it is there (and, with `uid`, if it is still that one); what it owns follows. Raises ApiError."""
        options: Json = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        with contextlib.suppress(NotFoundError):
            self._json(_Request("DELETE", path, {}, options, "application/json"))

    def text(self, path: str, **query: str | int) -> bytes:
        """An answer that is no JSON, such as a log. Raises ApiError."""
        return self._answer(_Request("GET", path, query))

    # watches ----------------------------------------------------------------------------------------------------------

    def watch(self, path: str, *, version: str, seconds: int, **query: str) -> Iterator[Json]:
        """Events (`type`, `object`) from a version on, until the server ends the watch, which it does after `seconds`.

        Raises:
            GoneError: the version is too old. ApiError: it is refused, or the connection is cut.
        """
        asked: dict[str, str | int] = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": seconds,
        }
        # A silent connection may be a dead one; the server itself ends the watch before.
        timeout = urllib3.Timeout(connect=_CONNECT, read=seconds + _READ)
        try:
            answer = self._connection("GET", _url(path, asked), _headers(), None, timeout)
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
                # Not `release_conn`: what the server still sends on it would be taken for the next answer.
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise UnreachableError(f"the watch of {path} was cut: {type(problem).__name__}") from problem
        except ValueError as problem:
            raise UnreachableError(f"the watch of {path} sent no JSON") from problem

    # ------------------------------------------------------------------------------------------------------------------

    def _json(self, request: _Request) -> Json:
        answer = self._answer(request)
        try:
            found: Json = json.loads(answer)
        except ValueError as problem:
            what = f"{request.method} {request.path}"
            raise UnreachableError(f"the answer to {what} is no JSON; is it a Kubernetes API?") from problem
        return found

    def _answer(self, request: _Request) -> bytes:
        """What the server says in the end: asked again, a few times, where it may say something else."""
        sent = None if request.body is None else json.dumps(request.body).encode()
        url, headers = _url(request.path, request.query), _headers(request.content_type)
        for attempt in range(1, _ATTEMPTS + 1):
            wait = _PAUSES.delay(attempt)
            try:
                status, answer, asked = self._once(request.method, url, headers, sent)
                if status < 300:
                    return answer
                problem = _refusal(status, answer)
                if status not in _AGAIN:
                    raise problem
                wait = max(wait, min(asked, _PAUSES.longest))
            except UnreachableError as error:
                problem = error
            if attempt < _ATTEMPTS:
                self._sleep(wait)
        raise problem

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes, float]:
        """Status, body, and the seconds that the server asks to wait."""
        forbid_in_transaction("a call to Kubernetes")
        try:
            answer = self._connection(method, url, headers, body, urllib3.Timeout(connect=_CONNECT, read=_READ))
            try:
                content = answer.read(_SIZE)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise UnreachableError(f"the Kubernetes API does not answer: {type(problem).__name__}") from problem
        asked = answer.headers.get("Retry-After", "")
        return answer.status, content, float(asked) if asked.isdigit() else 0.0


def connect(kubeconfig: str = "", context: str = "") -> OfficialConnection:
    """The connection that a kubeconfig describes, or without one that of the pod that this runs in.

    Raises:
        ValueError: there is neither, or the file cannot be read.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig:
            load: Any = config.load_kube_config
            load(
                config_file=kubeconfig,
                context=context or None,
                client_configuration=configuration,
                persist_config=False,
            )
        else:
            load = config.load_incluster_config
            load(client_configuration=configuration)
    except (ConfigException, OSError) as problem:
        where = f"the kubeconfig {kubeconfig}" if kubeconfig else "the pod's own service account"
        raise ValueError(f"{where} gives no way to a cluster: {problem}; set `kubeconfig` for the region") from problem
    # Repeating is this module's, which knows what can be repeated and for how long.
    configuration.retries = False
    configuration.connection_pool_maxsize = 64
    return OfficialConnection(client.ApiClient(configuration))


class OfficialConnection:
    """The official client's pools, TLS and credentials; tokens that end are renewed by it."""

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
        """Close what is open."""
        self._client.close()


def _headers(content_type: str | None = None) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "archelon"}
    if content_type is not None:
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
        told = json.loads(body)
    except ValueError:
        told = None
    return _error(status, told if isinstance(told, dict) else {})


def _error(status: int, told: Json) -> ApiError:
    kind = NotFoundError if status == 404 else GoneError if status == 410 else ApiError
    return kind(status, str(told.get("reason") or ""), str(told.get("message") or f"the API server answers {status}"))
