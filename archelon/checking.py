"""`archelon conformance`: whether an orchestrator, in any language, says and does what it has to."""

from __future__ import annotations

import importlib
import importlib.util

import click

from .failures import CommandError, Status

__all__ = ["conformance"]


@click.command()
@click.argument("url")
def conformance(url: str) -> int:
    """Test the orchestrator that listens at URL."""
    if importlib.util.find_spec("sdk.conformance") is None:
        raise CommandError("this installation has no sdk.conformance", status=Status.FAILED)
    outcome = importlib.import_module("sdk.conformance").main([url])
    return int(outcome or Status.DONE)
