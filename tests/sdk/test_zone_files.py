"""Zone files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import sdk
from sdk.dns import Dns, ZoneFiles

from .names_contract import NamesContract


class Files:
    """A directory of zone files."""

    zone = "example.org"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, instance: str) -> Dns:
        return Dns(ZoneFiles(self._directory), instance)

    def serves(self, name: str, kind: str, *expected: tuple[str, int]) -> None:
        assert self._served(name, kind) == list(expected)

    def _served(self, name: str, kind: str) -> list[tuple[str, int]]:
        found = []
        for line in (self._directory / f"{self.zone}.zone").read_text().splitlines():
            parts = line.partition(" ; instance ")[0].split("\t")
            if parts[0] == name and parts[2:4] == ["IN", kind]:
                found.append((parts[4], int(parts[1])))
        return found

    def lose(self, name: str, kind: str) -> None:
        place = self._directory / f"{self.zone}.zone"
        kept = [
            line
            for line in place.read_text().splitlines(keepends=True)
            if not (line.startswith(f"{name}\t") and f"\tIN\t{kind}\t" in line)
        ]
        place.write_text("".join(kept))

    def revision(self, name: str, kind: str) -> Any:
        # Each change is a new file.
        return (self._directory / f"{self.zone}.zone").stat().st_ino


class TestZoneFiles(NamesContract):
    @pytest.fixture
    def naming(self, tmp_path: Path) -> Files:
        return Files(tmp_path / "zones")


ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


def test_lines_of_a_zone_file(tmp_path: Path) -> None:
    files = ZoneFiles(tmp_path / "zones")
    Dns(files, ONE).put("Example.org", "web", "A", "192.0.2.2", ttl=60)
    Dns(files, TWO).put("example.org.", "@", "TXT", '"hello world"')
    lines = (tmp_path / "zones" / "example.org.zone").read_text().splitlines()[1:]
    assert lines == [f'@\t300\tIN\tTXT\t"hello world" ; instance {TWO}', f"web\t60\tIN\tA\t192.0.2.2 ; instance {ONE}"]


def test_orchestrators_on_one_machine_write_one_zone_concurrently(tmp_path: Path) -> None:
    def work(number: int) -> None:
        dns = Dns(ZoneFiles(tmp_path), f"00000000-0000-4000-8000-{number:012}")
        for name in range(5):
            dns.put("example.org", f"n{number}-{name}", "A", "192.0.2.1")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(ZoneFiles(tmp_path).records("example.org")) == 30


def test_a_zone_is_not_a_path(tmp_path: Path) -> None:
    with pytest.raises(sdk.Failure, match="is not a zone; use a domain"):
        Dns(ZoneFiles(tmp_path), ONE).put("../etc", "a", "A", "192.0.2.1")
    assert list(tmp_path.glob("**/*.zone")) == []
