"""Reads metrics of nodes in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/

A scrape is one GET of at most a mebibyte and three seconds, since a node runs a tenant's program. The samples of a metric are
summed over its labels per node, and averaged over the nodes, so that the value describes one node of that kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from archelon_core.http.fetch import Fetcher, FetchError, FetchLimits

from ..platforms.interface import ScrapeTarget

Fetch = Callable[[ScrapeTarget, str], str]

_AT_ONCE: Final = 8
#: Maximum metrics of a node; further ones are dropped, in order of appearance.
_METRICS: Final = 500
#: Maximum characters of a metric's name; longer ones are dropped.
_NAME: Final = 200
_LIMITS: Final = FetchLimits(size=1 << 20, seconds=3.0, redirects=0)
#: Networks of nodes that are not public: private ones (RFC 1918, 4193), those of providers (RFC 6598), and others that clusters
#: use for pods (RFC 2544, class E). A tenant can influence a node's address, so addresses that cannot be nodes are not
#: contacted: this machine, a cloud's metadata service.
_NETWORKS: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    *("100.64.0.0/10", "198.18.0.0/15", "240.0.0.0/4"),
)
_ELSEWHERE: Final = Fetcher(schemes=("http",), allowed_networks=_NETWORKS, limits=_LIMITS)
_HERE: Final = Fetcher(schemes=("http",), allowed_networks=("127.0.0.0/8", "::1/128"), limits=_LIMITS)


def parse(text: str) -> dict[str, float]:
    """Map each metric to the sum of its samples. Invalid lines and non-finite samples are dropped."""
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
    # A sum may overflow, and JSON has no infinity.
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _split(line: str) -> tuple[str, str]:
    """Return a sample's name, and the rest after its labels."""
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
    """Return each metric's mean over the nodes that have it, with the same maximum number of metrics."""
    values: dict[str, list[float]] = {}
    for node in nodes:
        for name, value in node.items():
            if name in values or len(values) < _METRICS:
                values.setdefault(name, []).append(value)
    return {name: sum([value / len(each) for value in each]) for name, each in values.items()}


def fetch(target: ScrapeTarget, path: str) -> str:
    """Fetch one node's metrics. Raises OSError if the response is not a 200, late or too large, or the address is forbidden."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    fetcher = _HERE if target.loopback else _ELSEWHERE
    try:
        return fetcher.fetch(f"http://{host}:{target.port}{path}").content.decode("utf-8", "replace")
    except FetchError as problem:
        raise OSError(f"{target.key}: {problem}") from problem


def scrape(targets: Sequence[ScrapeTarget], path: str, *, get: Fetch = fetch) -> tuple[dict[str, float], list[str]]:
    """Return the averaged metrics of all nodes, and messages about failures."""
    problems: list[str] = []

    def one(target: ScrapeTarget) -> dict[str, float]:
        try:
            return parse(get(target, path))
        except OSError as problem:
            problems.append(str(problem))
            return {}

    if not targets:
        return {}, ["no running node"]
    with ThreadPoolExecutor(min(_AT_ONCE, len(targets))) as pool:
        nodes = list(pool.map(one, targets))
    return averaged([node for node in nodes if node]), problems
