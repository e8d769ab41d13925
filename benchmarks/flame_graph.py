"""Record where 50 hello orders spend their time: `python -m benchmarks.flame_graph FILE.svg`; py-spy samples the processes.

Sampled are the service processes of an all-in-one and the host of the orchestrators, not the nodes, while a thread holds the
interpreter's lock. Functions are named by module. Narrow frames are left out, so that the file is small.
"""

from __future__ import annotations

import collections
import html
import re
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from .hello_orders import AT_ONCE, BUNDLES, Tenant
from .installations import all_in_one, processes

_FIRST_PORT: Final = 18500
_RATE: Final = 250
_WIDTH: Final = 1200
_HEIGHT: Final = 15
#: Smallest share of a frame.
_LEAST: Final = 0.004
#: The part of a file's name that says nothing: up to the installed packages or the repository, or to the library.
_PREFIX: Final = re.compile(r"^.*(?:site-packages/|python3\.\d+/)")
_FRAME: Final = re.compile(r"^(.*) \((.*?)(?::\d+)?\)$")
#: What every thread begins with.
_START: Final = "threading.Thread."


def record() -> collections.Counter[tuple[str, ...]]:
    """Return the number of samples of each stack, by role and functions."""
    stacks: collections.Counter[tuple[str, ...]] = collections.Counter()
    with (
        tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory,
        all_in_one(BUNDLES / "hello", first_port=_FIRST_PORT) as (system, stage),
    ):
        tenant = Tenant(stage)
        tenant.order()
        spies = []
        for process, role in processes(system, stage).items():
            if role in ("nodes", "sandboxes", "supervisors"):
                continue
            output = Path(directory) / str(process.pid)
            command = [
                "py-spy",
                "record",
                "--nonblocking",
                "--gil",
                "--function",
                "--format",
                "raw",
                "--rate",
                str(_RATE),
            ]
            command += ["--duration", "600", "--pid", str(process.pid), "--output", str(output)]
            spies.append((subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE), role, output))
        tenant.orders(AT_ONCE)
        tenant.close()
        for spy, role, output in spies:
            spy.send_signal(signal.SIGINT)
            _, error = spy.communicate()
            if not output.exists():
                raise RuntimeError(f"py-spy did not sample {role}: {error.decode()}")
            for line in output.read_text().splitlines():
                stack, _, count = line.rpartition(" ")
                frames = [each for each in map(_named, stack.split(";")) if not each.startswith(_START)]
                stacks[role, *frames] += int(count)
    return stacks


def _named(frame: str) -> str:
    """Return a function by its module: `occi_service.registry.sql.select` for `select (/…/occi_service/registry/sql.py)`."""
    found = _FRAME.match(frame)
    if found is None:
        return frame
    path = _PREFIX.sub("", found[2]).removeprefix(f"{Path(__file__).parents[1]}/")
    return f"{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}.{found[1]}"


def drawn(stacks: Mapping[tuple[str, ...], int], title: str) -> str:
    """Return the flame graph as SVG: a frame's width is its share of the samples, its callers are below it."""
    total = sum(stacks.values())
    frames = list(_frames(stacks, 0, 0.0, total))
    depth = 2 + max(level for level, *_ in frames)
    height = depth * _HEIGHT + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="monospace" font-size="10">',
        f'<text x="4" y="16" font-size="13">{html.escape(title)}, {total} samples</text>',
    ]
    for level, start, share, name in frames:
        x, width, y = start * _WIDTH, share * _WIDTH, height - (level + 1) * _HEIGHT
        # One colour for each package.
        hue = zlib.crc32(name.partition(".")[0].encode()) % 360
        shown = html.escape(name if 6 * len(name) < width else name.rpartition(".")[2][: int(width / 6.2)])
        lines.append(
            f'<g><title>{html.escape(name)} {share:.1%}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{_HEIGHT - 1}" fill="hsl({hue},60%,78%)"/><text x="{x + 1:.1f}" y="{y + 11}">{shown}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _frames(
    stacks: Mapping[tuple[str, ...], int], level: int, start: float, total: int
) -> Iterator[tuple[int, float, float, str]]:
    """Yield level, start, share and name of each frame that is wide enough."""
    by_name: dict[str, dict[tuple[str, ...], int]] = collections.defaultdict(dict)
    for stack, count in stacks.items():
        if stack:
            by_name[stack[0]][stack[1:]] = count
    for name, inner in sorted(by_name.items()):
        share = sum(inner.values()) / total
        if share >= _LEAST:
            yield level, start, share, name
            yield from _frames(inner, level + 1, start, total)
        start += share


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawn(record(), f"{AT_ONCE} hello orders on the all-in-one, by process"))
