"""The first process of an orchestrator's container: it finds and unpacks the bundle safely, and can be terminated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import bundles
from sdk.runtime import container

ROOT = Path(__file__).parents[3]
HELLO = ROOT / "orchestrators" / "hello"


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, str]:
    made = bundles.Bundle.load(HELLO).pack()
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(made.archive)
    return path, made.digest


def _environment(tmp_path: Path, archive: Path, **more: str) -> dict[str, str]:
    return {container.ENV_ARCHIVE: str(archive), container.ENV_SCRATCH: str(tmp_path), **more}


def test_a_mounted_archive_is_unpacked_once_and_served(tmp_path: Path, packed: tuple[Path, str]) -> None:
    archive, digest = packed
    became: list[tuple[str, list[str]]] = []
    environment = _environment(tmp_path, archive, **{container.ENV_DIGEST: digest})
    for _ in range(2):
        try:
            container.main(environment, become=lambda program, arguments: became.append((program, arguments)))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    directory = tmp_path / f"bundle-{digest}"
    assert became == [(sys.executable, [sys.executable, "-m", "sdk.serve", str(directory)])] * 2
    assert bundles.Bundle.load(directory).pack().digest == digest


def test_an_archive_with_another_digest_is_refused(tmp_path: Path, packed: tuple[Path, str]) -> None:
    archive, _ = packed
    with pytest.raises(ValueError, match="its digest is not the one"):
        container.bundle_of(_environment(tmp_path, archive, **{container.ENV_DIGEST: "0" * 64}))
    assert not list(tmp_path.glob("bundle-*"))


def test_an_invalid_archive_is_refused_with_its_path(tmp_path: Path) -> None:
    archive = tmp_path / "bundle.tar.gz"
    archive.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"bundle\.tar\.gz: .*not a gzip file"):
        container.bundle_of(_environment(tmp_path, archive))


def test_a_missing_archive_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.tar\.gz: No such file or directory; mount"):
        container.bundle_of(_environment(tmp_path, tmp_path / "nothing.tar.gz"))


def test_without_an_archive_the_bundle_of_the_image_is_served() -> None:
    assert container.bundle_of({container.ENV_BUNDLE: str(HELLO)}) == HELLO


def test_without_any_bundle_the_error_has_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"ARCHELON_BUNDLE_ARCHIVE.*archelon build"):
        container.bundle_of({})


def test_a_sigterm_before_the_exec_terminates_it(tmp_path: Path, packed: tuple[Path, str]) -> None:
    """A signal that arrives before there is a handler stays pending."""
    archive, _ = packed
    program = (
        "import os, signal, sys, sdk.runtime.container\n"
        "def become(program, arguments):\n"
        # The signal arrives between the last check and the exec.
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.execv(program, arguments)\n"
        "sdk.runtime.container.main(become=become)\n"
    )
    environment = _environment(tmp_path, archive, PYTHONPATH=str(ROOT), PATH=os.defpath)
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    # The handler of `sdk.serve` ended it, before the environment was checked.
    assert (ended.returncode, ended.stderr) == (0, "")
