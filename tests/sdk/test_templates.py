"""The reading of a bundle's templates: once, and within bounds, since tenants share the process of a host."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bundles
import sdk
from archelon_core.auth.size_limit import MAX_BODY
from sdk import templates
from sdk.templates import Document

_HOT = "heat_template_version: 2018-08-31\nparameters: {size: {type: string}}\n"


@pytest.fixture
def bundle(tmp_path: Path) -> bundles.Bundle:
    (tmp_path / "manifest.yaml").write_text("service_type: http://s/occi#top\ntemplates: {hot: {deployment: t.yaml}}\n")
    (tmp_path / "t.yaml").write_text(_HOT)
    return bundles.Bundle.load(tmp_path, checked=True)


def test_concurrent_orders_of_a_bundle_read_its_template_once(
    bundle: bundles.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    declared = templates._declared
    monkeypatch.setattr(templates, "_declared", lambda text, path: read.append(path) or declared(text, path))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Document.read(bundle, "t.yaml", "hot"), range(8)))
    assert read == ["t.yaml"]
    assert [each.parameters for each in found] == [("size",)] * 8


def test_nested_templates_are_read_up_to_what_deploy_accepts(
    bundle: bundles.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = [f"n{number}.yaml" for number in range(8)]
    resources = "".join(f"  r{number}: {{type: {each}}}\n" for number, each in enumerate(nested))
    (tmp_path / "t.yaml").write_text(f"{_HOT}resources:\n{resources}")
    for each in nested:
        (tmp_path / each).write_text(f"{_HOT}#{'x' * (MAX_BODY // 2)}\n")
    bundle = bundles.Bundle.load(tmp_path, checked=True)
    read: list[str] = []
    content = bundles.Bundle.read
    monkeypatch.setattr(bundles.Bundle, "read", lambda self, path: read.append(path) or content(self, path))
    for _ in range(2):
        with pytest.raises(sdk.Failure, match="which deploy refuses; shorten them") as raised:
            Document.read(bundle, "t.yaml", "hot")
        assert raised.value.permanent
    assert len(read) == 3, "the template, and nested ones until they were too large"
