"""All-in-ones of the benchmarks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import bundles
from archelon.all_in_one import AllInOne
from archelon.demo.stage import Stage
from archelon.service import offer
from archelon.state_directory import StateDirectory


@contextlib.contextmanager
def all_in_one(
    bundle: Path,
    *,
    first_port: int,
    databases: Mapping[str, str] | None = None,
    prepare: Callable[[StateDirectory], None] = lambda _state: None,
    show: Callable[[str], None] = print,
) -> Iterator[tuple[AllInOne, Stage]]:
    """Run an all-in-one in a temporary directory, with the service of a bundle.

    Args:
        prepare: called with the state directory before the start.
    """
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory:
        state = StateDirectory(Path(directory), databases=databases)
        with state.locked(), contextlib.ExitStack() as stack:
            state.make(host="127.0.0.1", first_port=first_port)
            prepare(state)
            system = AllInOne(state, show)
            stage = Stage(state, system, show=print)
            stack.callback(system.down)
            stack.callback(stage.close)
            system.up()
            with stage.connection("provider").open() as manager:
                offer(manager, bundles.Bundle.load(bundle).pack())
            yield system, stage
