"""What hostile code of a tenant tries; run as `intrusion.py FILE`, it attempts what `TARGETS` says and tells it in the file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence


def attempt(targets: Mapping[str, Sequence[str]], who: str) -> dict[str, list[str]]:
    """What came of it, each a list that should be empty; `listed` has no more than the way to one's own directory.

    Args:
        targets: `needles`, each written backwards, to be found nowhere; `trees` to look through; `kill`, process ids;
            `write`, directories.
    """
    needles = [each[::-1].encode() for each in targets.get("needles", ())]
    trees = [path for tree in targets.get("trees", ()) for path in files_of(tree)]
    found = {path for path in (*trees, *process_files(), *targets.get("files", ())) if holds(path, needles)}
    return {
        "found": sorted(found),
        "listed": sorted(name for tree in targets.get("trees", ()) for name in listing(tree)),
        "killed": [pid for pid in targets.get("kill", ()) if kills(int(pid))],
        "written": [place for place in targets.get("write", ()) if writes(f"{place}/{who}")],
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


def told(targets: str, who: str) -> str:
    """The report, as JSON."""
    return json.dumps(attempt(json.loads(targets), who))


if __name__ == "__main__":
    report = told(os.environ["TARGETS"], sys.argv[1])
    with open(f"{sys.argv[1]}.new", "w") as output:
        output.write(report)
    os.replace(f"{sys.argv[1]}.new", sys.argv[1])
    print(report)
