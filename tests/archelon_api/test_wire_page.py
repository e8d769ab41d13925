"""Tests that docs/wire.md matches the vocabulary."""

from __future__ import annotations

from pathlib import Path

from archelon_api import document, service_manager


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "wire.md"
    assert page.read_text() == document.page(), "run: python -m archelon_api.document > docs/wire.md"


def test_the_page_has_every_kind_action_and_attribute() -> None:
    text = document.page()
    for kind in (service_manager.PUBLISHED, service_manager.RECORD, service_manager.DEPENDENCY):
        assert f"`{kind.scheme}{kind.term}`" in text
        for name in kind.attributes:
            assert f"| `{name}` |" in text
    for action in (*service_manager.LIFECYCLE_ACTIONS, service_manager.REPORT, service_manager.ROLL):
        assert f"**Action `{action.term}`**" in text
    for name in service_manager.INSTANCE_ATTRIBUTES:
        assert f"| `{name}` |" in text
