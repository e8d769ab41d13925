"""The platform in docs/platforms.md is complete: it is found by entry point, and stacks are created and deleted on it."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from archelon_api import deploy, disposal, names
from cloud_controller.app.dependencies import open_platforms
from cloud_controller.platforms.entry_points import PLATFORMS
from tests.code_blocks import code_blocks

from ..system import System, labels, new_instance

PAGE = (Path(__file__).parents[3] / "docs" / "platforms.md").read_text()
NOTE = "Dear $who, see you.\n"


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """A cloud controller with a region of the page's platform besides the local one."""
    [program], [offer], [regions] = (code_blocks(PAGE, language) for language in ("python", "toml", "yaml"))
    assert len(program.splitlines()) <= 60
    (tmp_path / "my_platform.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_platform", raising=False)
    offered = tomllib.loads(offer)["project"]["entry-points"][PLATFORMS]
    found = tuple(importlib.metadata.EntryPoint(name, value, PLATFORMS) for name, value in offered.items())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found if group == PLATFORMS else ())
    given = {name: (each["platform"], each["settings"]) for name, each in yaml.safe_load(regions).items()}
    opened = open_platforms(tmp_path / "opened", given)
    monkeypatch.undo()
    made = System(tmp_path / "system", sqlite_url)
    made.rebuild(platforms={"local": made.platform, **opened})
    yield made
    made.clear()


def put_note(system: System, instance: str, generation: int = 1, **changes: Any) -> Any:
    attributes = {
        **labels(instance, generation),
        deploy.STACK_NAME: "note",
        names.REGION: "notes",
        deploy.STACK_FORMAT: "text",
        deploy.STACK_TEMPLATE: NOTE,
        deploy.STACK_PARAMETERS: {"who": "Ada"},
        **changes,
    }
    path = "/deploy" + deploy.stack_path(instance, "note", "notes")
    return system.call("PUT", path, kind=deploy.STACK, attributes=attributes), path


def test_the_documented_platform_runs_stacks(system: System) -> None:
    instance = new_instance()
    refused, path = put_note(system, instance, **{deploy.STACK_PARAMETERS: {}})
    assert refused.status_code == 400
    assert "cannot be filled: 'who'; give every parameter" in refused.text
    with system.worker():
        made, path = put_note(system, instance)
        assert made.status_code == 201, made.text
        system.wait(lambda: system.attributes(path)[deploy.STACK_STATE] == "CREATE_COMPLETE")
        written = Path(system.attributes(path)[deploy.STACK_OUTPUTS]["path"])
        assert written.read_text() == "Dear Ada, see you.\n"
        changed, _ = put_note(system, instance, 2, **{deploy.STACK_PARAMETERS: {"who": "Grace"}})
        assert changed.status_code == 200, changed.text
        system.wait(lambda: system.attributes(path)[deploy.STACK_STATE] == "UPDATE_COMPLETE")
        assert written.read_text() == "Dear Grace, see you.\n"
        ended = "/disposal" + disposal.disposal_path(instance)
        system.call("PUT", ended, kind=disposal.DISPOSAL, attributes=labels(instance, 3))
        system.wait(lambda: system.attributes(ended)[disposal.DISPOSAL_STATE] == "done")
    assert not written.exists()
    assert system.gone(path)
