"""Output of pods by position.

A position is a moment in nanoseconds since the epoch, from the timestamp that containerd and CRI-O give every line. Byte offsets
would not do: the cluster provides none, and a replacement pod begins a new log. `since` continues after the last line read, in
whichever pod or restart the next one is; the lines of a deleted pod are lost.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..interface import Log
from .api import Api, ApiError, Json, ObjectNotFoundError

_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
_NANO: Final = 1_000_000_000
#: Bytes: of one answer at most, of the first fetch from a container, and of the largest fetch.
_PIECE: Final = 64 << 10
_FETCH: Final = 1 << 20
_MOST: Final = 16 << 20
#: Lines for the message of a failure; kubelets cut lines at 16 KiB.
_TAIL_LINES: Final = 20


def read_log(api: Api, pods: Sequence[Json], container: str, since: int) -> Log:
    """Return whole lines later than `since`, of all pods in the order of their timestamps, up to 64 KiB. Raises ApiError."""
    fetch = _FETCH
    while True:
        lines: list[tuple[int, bytes]] = []
        full = False
        for pod in pods:
            for previous in (True, False) if _restarted(pod, container) else (False,):
                text = _text(api, pod, container, since=since, previous=previous, limit=fetch)
                full |= len(text) >= fetch
                lines += [each for each in _stamped(text) if each[0] > since]
        if lines or not full or fetch >= _MOST:
            break
        # `sinceTime` has whole seconds: all that was fetched of this second was before `since`.
        fetch *= 4
    return _piece(sorted(lines, key=lambda each: each[0]), since)


def read_tail(api: Api, pod: Mapping[str, Any], container: str) -> bytes:
    """Return the last lines of a pod's container; the reason, if the cluster refuses to show them. Raises ApiError."""
    try:
        return _request(api, pod, {"container": container, "tailLines": _TAIL_LINES})
    except ApiError as problem:
        if not problem.final:
            raise
        return f"(it cannot be read: {problem})".encode()


def _piece(lines: Iterable[tuple[int, bytes]], since: int) -> Log:
    data = bytearray()
    start = position = since
    for stamp, line in lines:
        if data and len(data) + len(line) > _PIECE and stamp > position:
            break
        if not data and not since:
            start = stamp
        data += line
        position = stamp
    return Log(bytes(data), start, position)


def _restarted(pod: Json, container: str) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return any(each["name"] == container and each.get("restartCount") for each in statuses)


def _text(api: Api, pod: Json, container: str, *, since: int, previous: bool, limit: int) -> bytes:
    query: dict[str, str | int] = {"container": container, "timestamps": "true", "limitBytes": limit}
    if since:
        moment = datetime.datetime.fromtimestamp(since // _NANO, datetime.UTC)
        query["sinceTime"] = moment.isoformat().replace("+00:00", "Z")
    if previous:
        query["previous"] = "true"
    return _request(api, pod, query)


def _request(api: Api, pod: Mapping[str, Any], query: Mapping[str, str | int]) -> bytes:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    try:
        return api.text(path, **query)
    except ObjectNotFoundError:
        return b""
    except ApiError as problem:
        # A container that has not started, or whose earlier run was cleaned up, has no output.
        if problem.status == 400:
            return b""
        raise


def _stamped(text: bytes) -> Iterator[tuple[int, bytes]]:
    # Lines end with line feeds alone; a carriage return is part of the line. A line cut off at the limit comes whole the next
    # time; one without a timestamp is the kubelet's.
    for line in re.findall(rb"[^\n]*\n", text):
        found = _STAMP.match(line)
        if found is None:
            continue
        moment = datetime.datetime.fromisoformat(found[1].decode() + found[3].decode().replace("Z", "+00:00"))
        fraction = (found[2] or b"0").ljust(9, b"0")
        yield int(moment.timestamp()) * _NANO + int(fraction), line[found.end() :]
