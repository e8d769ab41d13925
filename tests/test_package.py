"""What an installed Archelon needs beside its Python files is in its wheel, and nothing else comes along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "archelon",
    "archelon_api",
    "archelon_core",
    "bundles",
    "cloud_controller",
    "occi_service",
    "orchestrators",
    "portal",
    "sdk",
    "service_manager",
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of the wheel, built here without the network from what git has."""
    place = tmp_path_factory.mktemp("wheel")
    # Without git, or in an unpacked archive, what is there is what was delivered.
    tracked = None
    if shutil.which("git") is not None:
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True)
        tracked = listed.stdout.decode().split("\0") if listed.returncode == 0 else None
    for package in (*PACKAGES, "README.md", "LICENSE", "pyproject.toml"):
        for path in [ROOT / package, *(ROOT / package).rglob("*")]:
            name = str(path.relative_to(ROOT))
            if path.is_file() and (tracked is None or name in tracked):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place / name)
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(place)], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(place / done.stdout.split()[-1]) as wheel:
        return wheel.namelist()


@pytest.mark.parametrize(
    "name",
    [
        "bundles/manifest.schema.json",
        "bundles/py.typed",
        "occi_service/renderings/page.html",
        "occi_service/py.typed",
        "archelon_core/migrations/env.py",
    ],
)
def test_it_is_there(names: list[str], name: str) -> None:
    assert name in names


def test_every_file_of_the_packages_is_there(names: list[str]) -> None:
    missing = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            name = str(path.relative_to(ROOT))
            if path.suffix in (".py", ".json", ".html", ".yaml", ".yml") and "__pycache__" not in name:
                missing += [name] * (name not in names)
    assert missing == []


def test_nothing_else_is(names: list[str]) -> None:
    places = {name.split("/")[0] for name in names}
    assert {each for each in places if not each.endswith(".dist-info")} <= set(PACKAGES)
