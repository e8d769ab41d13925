"""Reads metrics of nodes in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/

A scrape of a node is one GET of at most a mebibyte. Of each metric's samples, whatever their labels, the sum is the node's
value; over the nodes, values are averaged, so that a metric says how it goes with one node of that kind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import urllib3

from ..platforms.interface import Target

__all__ = ["Fetch", "averaged", "fetch", "parse", "scrape"]

Fetch = Callable[[Target, str], str]

_SIZE: Final = 1 << 20
_AT_ONCE: Final = 8
#: Metrics that are kept of a node; what goes beyond is left out, in order of appearance.
_METRICS: Final = 500
#: Characters of a metric's name; longer ones are left out.
_NAME: Final = 200
_SECONDS: Final = 3.0


def parse(text: str) -> dict[str, float]:
    """Metric to the sum of its samples. Lines that are no samples, and samples that are not numbers, are left out."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, rest = _split(line)
        words = rest.split()
        if not name or not 1 <= len(words) <= 2:
            continue
        try:
            value = float(words[0])
        except ValueError:
            continue
        if len(name) <= _NAME and math.isfinite(value) and (name in found or len(found) < _METRICS):
            found[name] = found.get(name, 0.0) + value
    # A sum may leave what a number can be, and what JSON can say.
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _split(line: str) -> tuple[str, str]:
    """A sample's name, and what follows its labels."""
    brace = line.find("{")
    if brace == -1:
        name, _, rest = line.partition(" ")
        return name.strip(), rest
    quoted = escaped = False
    for index in range(brace + 1, len(line)):
        character = line[index]
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "}" and not quoted:
            return line[:brace].strip(), line[index + 1 :]
    return "", ""


def averaged(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the nodes that have it; of no more metrics than one node may have."""
    values: dict[str, list[float]] = {}
    for node in nodes:
        for name, value in node.items():
            if name in values or len(values) < _METRICS:
                values.setdefault(name, []).append(value)
    return {name: sum([value / len(each) for value in each]) for name, each in values.items()}


def fetch(target: Target, path: str) -> str:
    """One node's metrics as text.

    Raises:
        OSError: it does not answer with 200, in time, or within the size.
    """
    end = time.monotonic() + _SECONDS
    pool = urllib3.HTTPConnectionPool(
        target.host, target.port, timeout=urllib3.Timeout(connect=1.0, read=_SECONDS), retries=False
    )
    try:
        answer = pool.request("GET", path, preload_content=False, redirect=False)
        try:
            if answer.status != 200:
                raise OSError(f"{target.key} answers with {answer.status}")
            body = bytearray()
            for chunk in answer.stream(1 << 14, decode_content=True):
                body += chunk
                if len(body) > _SIZE or time.monotonic() > end:
                    raise OSError(f"{target.key} sends more than {_SIZE} bytes, or for longer than {_SECONDS:g} s")
        finally:
            answer.close()
    except urllib3.exceptions.HTTPError as problem:
        raise OSError(f"{target.key} does not answer: {type(problem).__name__}") from problem
    finally:
        pool.close()
    return body.decode("utf-8", "replace")


def scrape(targets: Sequence[Target], path: str, *, get: Fetch = fetch) -> tuple[dict[str, float], list[str]]:
    """The averaged metrics of all nodes, and what went wrong, in words."""
    troubles: list[str] = []

    def one(target: Target) -> dict[str, float]:
        try:
            return parse(get(target, path))
        except OSError as problem:
            troubles.append(str(problem))
            return {}

    if not targets:
        return {}, ["there is no running node to look at"]
    with ThreadPoolExecutor(min(_AT_ONCE, len(targets))) as pool:
        nodes = list(pool.map(one, targets))
    return averaged([node for node in nodes if node]), troubles
