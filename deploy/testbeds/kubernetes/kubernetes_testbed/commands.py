"""Runs programs and raises errors with their output."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from .layout import TestBedError


def output_of(
    command: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return a command's output. Raises TestBedError if it fails, unless `check` is False, or after `timeout` seconds."""
    try:
        ended = subprocess.run(
            list(command), input=stdin, capture_output=True, text=True, timeout=timeout, env=environment, check=False
        )
    except FileNotFoundError:
        raise TestBedError(f"{command[0]} is missing") from None
    except subprocess.TimeoutExpired:
        raise TestBedError(f"{' '.join(command)} did not finish within {timeout} s") from None
    if check and ended.returncode:
        message = " ".join((ended.stderr or ended.stdout).split())[-500:]
        raise TestBedError(f"{' '.join(command)} exited with {ended.returncode}: {message}")
    return ended.stdout
