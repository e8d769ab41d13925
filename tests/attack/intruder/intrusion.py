"""Attacks of a tenant's hostile code; `intrusion.py FILE` attacks the targets in `TARGETS`, and writes a report to the file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence


def attempt(targets: Mapping[str, Sequence[str]], who: str) -> dict[str, list[str]]:
    """Attack, and return the successes: lists that should be empty, except `listed` with the path to one's own directory.

    Args:
        targets: `needles` (texts, each reversed, that should be found nowhere), `trees` to search, `files` to read, `kill`
            (process ids), `write` (directories).
    """
    needles = [each[::-1].encode() for each in targets.get("needles", ())]
    trees = [path for tree in targets.get("trees", ()) for path in files_of(tree)]
    found = {path for path in (*trees, *process_files(), *targets.get("files", ())) if holds(path, needles)}
    return {
        "found": sorted(found),
        "listed": sorted(name for tree in targets.get("trees", ()) for name in listing(tree)),
        "killed": [pid for pid in targets.get("kill", ()) if kills(int(pid))],
        "written": [path for path in targets.get("write", ()) if writes(f"{path}/{who}")],
    }


def files_of(tree: str) -> Iterator[str]:
    for above, _directories, names in os.walk(tree):
        yield from (os.path.join(above, name) for name in names)


def process_files() -> Iterator[str]:
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            yield from (f"/proc/{pid}/environ", f"/proc/{pid}/cmdline", f"/proc/{pid}/cwd/secret")


def holds(path: str, needles: Sequence[bytes]) -> bool:
    try:
        # A pipe would never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as stream:
            data = stream.read(4 << 20)
    except OSError:
        return False
    return any(needle in data for needle in needles)


def listing(tree: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(tree)
    return []


def kills(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def writes(path: str) -> bool:
    with contextlib.suppress(OSError), open(path, "w") as stream:
        stream.write("I was here")
        return True
    return False


def report(targets: str, who: str) -> str:
    """Attack, and return the report as JSON."""
    return json.dumps(attempt(json.loads(targets), who))


if __name__ == "__main__":
    text = report(os.environ["TARGETS"], sys.argv[1])
    with open(f"{sys.argv[1]}.new", "w") as output:
        output.write(text)
    os.replace(f"{sys.argv[1]}.new", sys.argv[1])
    print(text)
