"""The container files produce the same images as `archelon build` without a registry."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from archelon.images.content import IMAGES, Content, closure

ROOT = Path(__file__).parents[2]


def _lines(content: Content) -> list[str]:
    """Instructions of the container file, each on one line."""
    text = (ROOT / "deploy" / "containers" / content.name / "Containerfile").read_text()
    return [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES.keys())
def test_the_instructions_are_the_same(content: Content) -> None:
    lines = _lines(content)
    assert lines[-len(content.directives()) :] == content.directives()


def test_the_orchestrator_image_has_the_same_packages_and_libraries() -> None:
    content = IMAGES["orchestrator"]
    lines = _lines(content)
    copied = [re.fullmatch(r"COPY (\w+) /usr/local/lib/archelon/\1", line) for line in lines]
    assert tuple(found[1] for found in copied if found) == content.packages
    assert "COPY constraints.txt archelon/images/orchestrator.txt /tmp/" in lines
    assert any("--requirement /tmp/orchestrator.txt" in line for line in lines)


def test_the_services_image_has_the_same_extras() -> None:
    assert any(f"/tmp/source[{','.join(IMAGES['services'].extras)}]" in line for line in _lines(IMAGES["services"]))


def test_the_orchestrator_image_has_no_database_and_no_platform() -> None:
    distributions = set(IMAGES["orchestrator"].distributions())
    assert distributions.isdisjoint(
        {"sqlalchemy", "psycopg", "alembic", "kubernetes", "python-heatclient", "keystoneauth1"}
    )
    assert {"falcon", "gunicorn", "cryptography", "cffi", "attrs"} <= distributions


def test_the_closure_follows_extras_and_markers() -> None:
    every = set(IMAGES["services"].distributions())
    assert {"kubernetes", "python-heatclient", "psycopg-binary", "sqlalchemy"} <= every
    # Dependencies of the tests are not included.
    assert every.isdisjoint({"pytest", "mypy", "hypothesis", "ruff"})
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        closure(["no-such-distribution"])
