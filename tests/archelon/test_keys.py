"""`archelon keys`: keys are created once, and readable by their owner only."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from archelon_core.auth import SigningKey, read_jwk_set
from archelon_core.encryption import Cipher, keys_from_file
from archelon_core.settings import Settings

from .harness import archelon


def test_keys_are_made_once_and_fit_together(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    made = archelon("keys", directory, "-o", "json")
    assert made.status == 0, made.err
    assert made.json["files"] == [
        "cloud-controller-encryption.keys",
        "cloud-controller.pem",
        "cloud-controller.pub",
        "metrics-token",
        "service-manager-encryption.keys",
        "service-manager.pem",
        "service-manager.pub",
        "verification-keys.json",
    ]
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert archelon("keys", directory).status == 0
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}

    Settings.load({"ARCHELON_METRICS_TOKEN": before["metrics-token"].decode()})
    known = {each["kid"] for each in json.loads((directory / "verification-keys.json").read_text())["keys"]}
    read_jwk_set((directory / "verification-keys.json").read_text())
    for issuer in ("service-manager", "cloud-controller"):
        key = SigningKey.from_pem((directory / f"{issuer}.pem").read_bytes(), issuer=issuer)
        assert key.public.key_id in known
        Cipher(keys_from_file(directory / f"{issuer}-encryption.keys"))
    encryption = [before[f"{issuer}-encryption.keys"] for issuer in ("service-manager", "cloud-controller")]
    assert encryption[0] != encryption[1]
