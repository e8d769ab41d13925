"""The commands `up` and `down`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from .cluster import Cluster
from .layout import Layout, TestBedError


def up(arguments: list[str]) -> int:
    """Build what is missing, bring the cluster up, load images. Prints `KUBECONFIG=…` last."""
    parser = argparse.ArgumentParser(prog="up", description="Bring the cluster up, unless it is up.")
    parser.add_argument("archives", nargs="*", type=Path, help="images to load, as saved by docker or buildah")
    given = parser.parse_args(arguments)

    def work(cluster: Cluster) -> None:
        obstacle = cluster.layout.obstacle()
        if obstacle is not None:
            raise TestBedError(f"{obstacle} is missing on this machine")
        cluster.build()
        cluster.up()
        for archive in given.archives:
            cluster.load(archive)
        print(f"KUBECONFIG={cluster.layout.kubeconfig()}")

    return _run("up", work)


def down(arguments: list[str]) -> int:
    """Take the cluster down."""
    argparse.ArgumentParser(prog="down", description="Take the cluster down.").parse_args(arguments)

    def work(cluster: Cluster) -> None:
        cluster.down()
        left = cluster.leftovers()
        if left:
            raise TestBedError(f"left behind: {', '.join(left)}")

    return _run("down", work)


def _run(name: str, work: Callable[[Cluster], None]) -> int:
    # SIGINT as well: shells start background processes with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        work(Cluster(Layout(), lambda line: print(line, file=sys.stderr)))
    except (TestBedError, subprocess.CalledProcessError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the clean-up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
