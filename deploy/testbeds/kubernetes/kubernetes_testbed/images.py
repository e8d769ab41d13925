"""Packs a directory as an image with one layer, in the format of `docker save`, without a builder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path


def pack_image(name: str, root: Path, archive: Path, *, entrypoint: Sequence[str]) -> None:
    """Write an image of everything below `root`, owned by root, as an archive that containerd imports."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".", filter=_owned_by_root)
    content = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": list(entrypoint), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    configuration = json.dumps(config).encode()
    named = f"{hashlib.sha256(configuration).hexdigest()}.json"
    index = [{"Config": named, "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for path, data in (
            (named, configuration),
            ("layer.tar", content),
            ("manifest.json", json.dumps(index).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
