"""Output of pods by position.

A position here is a moment: nanoseconds since the epoch, of a line's own stamp, which containerd and CRI-O give every line. Bytes
would not do: the cluster gives no offset, and a pod that replaces another begins a log of its own. So `since` goes on after the
last line that was read, in whatever pod or restart the next one stands; lines of a pod that is gone are gone with it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ..interface import Log
from .api import Api, ApiError, Json, NotFoundError

_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
_NANO: Final = 1_000_000_000
#: Bytes that one answer gives at most, and that one look fetches of a container, the first time and at most.
_PIECE: Final = 64 << 10
_FETCH: Final = 1 << 20
_MOST: Final = 16 << 20


def read_log(api: Api, pods: Sequence[Json], container: str, since: int) -> Log:
    """Lines later than `since`, of all pods together in the order of their stamps; whole lines, up to 64 KiB.

    Raises:
        ApiError: the cluster does not answer.
    """
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
        # A second with more than that in it: the cluster begins at whole seconds, and all of it was before `since`.
        fetch *= 4
    return _piece(sorted(lines, key=lambda each: each[0]), since)


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
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    query: dict[str, str | int] = {"container": container, "timestamps": "true", "limitBytes": limit}
    if since:
        moment = datetime.datetime.fromtimestamp(since // _NANO, datetime.UTC)
        query["sinceTime"] = moment.isoformat().replace("+00:00", "Z")
    if previous:
        query["previous"] = "true"
    try:
        return api.text(path, **query)
    except NotFoundError:
        return b""
    except ApiError as problem:
        # A container that has not started, or whose earlier run was cleaned up, has no output.
        if problem.status == 400:
            return b""
        raise


def _stamped(text: bytes) -> Iterator[tuple[int, bytes]]:
    # At line feeds alone, as the runtime stamps them: a carriage return is a part of the line, whatever stands behind it.
    # A line that was cut off at the limit comes whole the next time; one without a stamp is the kubelet's word.
    for line in re.findall(rb"[^\n]*\n", text):
        found = _STAMP.match(line)
        if found is None:
            continue
        moment = datetime.datetime.fromisoformat(found[1].decode() + found[3].decode().replace("Z", "+00:00"))
        fraction = (found[2] or b"0").ljust(9, b"0")
        yield int(moment.timestamp()) * _NANO + int(fraction), line[found.end() :]
