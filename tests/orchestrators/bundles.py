"""The ready bundles, and their stacks on the local platform."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import Progress, StackOrder, Stacks
from sdk.templates import Document

READY = Path(__file__).parents[2] / "orchestrators"
HELLO, STORE, GUESTBOOK = READY / "hello", READY / "store", READY / "guestbook"


def order(directory: Path, parameters: Mapping[str, Any], **changes: Any) -> StackOrder:
    """A stack of a bundle's template, as the SDK orders it."""
    document = Document.read(bundles.Bundle.load(directory), "templates/local.yaml", "infrastructure")
    assert set(document.parameters) == set(parameters)
    return StackOrder(
        id=f"stack-{directory.name}",
        name=directory.name,
        labels=Labels("i-1", "tenant", "service", 1),
        template=document.text,
        files=document.files,
        parameters=parameters,
        **changes,
    )


class Platform:
    """Carries out orders like a worker."""

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self._records: dict[str, Mapping[str, Any]] = {}

    def settle(self, wanted: StackOrder, *, seconds: float = 60.0) -> Progress:
        """Advance until nothing is in progress, and once more for the outputs."""
        end = time.monotonic() + seconds
        while True:
            progress = self.stacks.advance(wanted, self._records.get(wanted.id))
            self._records[wanted.id] = progress.record
            if not progress.state.endswith("IN_PROGRESS"):
                return self.stacks.advance(wanted, progress.record)
            assert time.monotonic() < end, f"{progress.state}: {progress.reason}"
            time.sleep(min(progress.again or 0.0, 0.05))
