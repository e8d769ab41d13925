"""What is played: which bundles are offered, which of them is ordered, and how its face is spoken to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_BUNDLES: Final = _ROOT / "orchestrators"
_SKELETON: Final = _ROOT / "archelon" / "skeleton"


@dataclasses.dataclass(frozen=True, slots=True)
class Play:
    """One service to show.

    Attributes:
        bundles: directories to publish, suppliers before those who need them.
        service: term of the service that is ordered; order: its attributes; says: what its page says then.
        url: attribute with the instance's web endpoint.
        change: attributes of the update; says_then: what the page says after it.
        node: name of the node that grows under load; None where nothing does.
        takes_entries: whether visitors can write.
        missing: what this play does not show, and why.
    """

    bundles: tuple[Path, ...]
    service: str
    order: Mapping[str, Any]
    says: str
    url: str
    change: Mapping[str, Any]
    says_then: str
    node: str | None = None
    takes_entries: bool = False
    missing: tuple[str, ...] = ()


def chosen() -> Play:
    """The guestbook with its store; where this installation lacks them, the least service there can be."""
    guestbook = tuple(_BUNDLES / name for name in ("store", "guestbook"))
    if all((each / "manifest.yaml").is_file() for each in guestbook):
        return Play(
            bundles=guestbook,
            service="guestbook",
            order={"guestbook.title": "Visitors", "guestbook.busy": 10},
            says="Visitors",
            url="guestbook.url",
            change={"guestbook.title": "Dear visitors"},
            says_then="Dear visitors",
            node="web",
            takes_entries=True,
        )
    return Play(
        bundles=(_SKELETON,),
        service="hello",
        order={"hello.greeting": "Good morning"},
        says="Good morning",
        url="hello.url",
        change={"hello.greeting": "Good evening"},
        says_then="Good evening",
        missing=(
            "the bundles orchestrators/store and orchestrators/guestbook are not installed, so neither a service "
            "that uses another, nor writing an entry, nor scaling under load was shown",
        ),
    )
