"""`archelon instance logs`: every byte once, across rotated logs and pieces that split characters."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from archelon.instance import _log
from archelon_api import deploy
from cloud_controller.platforms.local.logs import read_log
from occi_service.client.connections import Answer

#: Characters of two bytes and pieces of three, so that some characters are split.
TEXT = "äöü" * 20


class Served:
    """Deploy's responses for a log whose start was rotated away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[int] = []

    def download(self, path: str, *, accept: str = "") -> Answer:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        self.asked.append(int(query["since"][0]))
        chunk = read_log(self.directory, self.asked[-1], 3)
        fields = {deploy.LOG_START.lower(): str(chunk.start), deploy.LOG_NEXT.lower(): str(chunk.next)}
        return Answer(200, fields, chunk.data)


def test_rotated_logs_are_skipped_and_no_character_is_split(tmp_path: Path) -> None:
    whole = TEXT.encode()
    (tmp_path / "100").write_bytes(whole[:60])
    (tmp_path / "160").write_bytes(whole[60:])
    served = Served(tmp_path)
    assert "".join(_log(served, "some-id", following=False)) == TEXT  # type: ignore[arg-type]
    assert served.asked[:2] == [0, 103]
    assert len(served.asked) == len(whole) // 3 + 1
