"""The demo's scenarios: the bundles to publish, the service to order, and the requests to its web page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_BUNDLES: Final = _ROOT / "orchestrators"
_SKELETON: Final = _ROOT / "archelon" / "skeleton"


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """One service to demonstrate.

    Attributes:
        bundles: directories to publish, dependencies first.
        service: term of the service to order.
        order: attributes of the order.
        text: text on the instance's page.
        url: attribute with the instance's web endpoint.
        change: attributes of the update.
        updated_text: text on the page after the update.
        node: name of the node that scales under load; None if there is none.
        takes_entries: whether the page accepts entries.
        missing: what this scenario does not demonstrate, and why.
    """

    bundles: tuple[Path, ...]
    service: str
    order: Mapping[str, Any]
    text: str
    url: str
    change: Mapping[str, Any]
    updated_text: str
    node: str | None = None
    takes_entries: bool = False
    missing: tuple[str, ...] = ()


def choose() -> Scenario:
    """Return the guestbook with its store or, if these bundles are not installed, a minimal service."""
    guestbook = tuple(_BUNDLES / name for name in ("store", "guestbook"))
    if all((each / "manifest.yaml").is_file() for each in guestbook):
        return Scenario(
            bundles=guestbook,
            service="guestbook",
            order={"guestbook.title": "Visitors", "guestbook.busy": 10},
            text="Visitors",
            url="guestbook.url",
            change={"guestbook.title": "Dear visitors"},
            updated_text="Dear visitors",
            node="web",
            takes_entries=True,
        )
    return Scenario(
        bundles=(_SKELETON,),
        service="hello",
        order={"hello.greeting": "Good morning"},
        text="Good morning",
        url="hello.url",
        change={"hello.greeting": "Good evening"},
        updated_text="Good evening",
        missing=(
            "the bundles orchestrators/store and orchestrators/guestbook are not installed, so composition, writing an entry "
            "and scaling under load were not demonstrated",
        ),
    )
