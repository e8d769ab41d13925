"""The wheel contains all files that an installed Archelon needs, and nothing else."""

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
    """Files of the wheel, built here without network access from the files that git tracks."""
    directory = tmp_path_factory.mktemp("wheel")
    # Without git, or in an unpacked archive, all files are part of the release.
    tracked = None
    if shutil.which("git") is not None:
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True)
        tracked = listed.stdout.decode().split("\0") if listed.returncode == 0 else None
    for package in (*PACKAGES, "README.md", "LICENSE", "pyproject.toml"):
        for path in [ROOT / package, *(ROOT / package).rglob("*")]:
            name = str(path.relative_to(ROOT))
            if path.is_file() and (tracked is None or name in tracked):
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, directory / name)
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(directory)], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(directory / done.stdout.split()[-1]) as wheel:
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
def test_the_wheel_contains_data_files(names: list[str], name: str) -> None:
    assert name in names


def test_the_wheel_contains_every_file_of_the_packages(names: list[str]) -> None:
    missing = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            name = str(path.relative_to(ROOT))
            if path.suffix in (".py", ".json", ".html", ".yaml", ".yml") and "__pycache__" not in name:
                missing += [name] * (name not in names)
    assert missing == []


def test_the_wheel_contains_nothing_else(names: list[str]) -> None:
    roots = {name.split("/")[0] for name in names}
    assert {each for each in roots if not each.endswith(".dist-info")} <= set(PACKAGES)
