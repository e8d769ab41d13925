"""An instance's order as its orchestrator gets it: sent (activation, then a phase), or in the answer of `renew`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bundles
from archelon_api import names, orchestrator

from ..store.instances import Instance


def of_phase(
    instance: Instance, manifest: bundles.Manifest, parameters: Mapping[str, Any], phase: str
) -> dict[str, Any]:
    """Return the attributes of a phase's action.

    Args:
        parameters: the tenant's.
    """
    return {
        names.GENERATION: instance.snapshot.phase_generation,
        orchestrator.PARAMETERS: dict(parameters),
        orchestrator.INTERNAL_PARAMETERS: _internal(manifest, phase),
    }


def of_activation(
    instance: Instance, manifest: bundles.Manifest, parameters: Mapping[str, Any], private: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attributes of the activation, without tokens.

    Args:
        private: the orchestrator's own state, as it reported last.
    """
    return {
        names.INSTANCE: instance.id,
        names.TENANT: instance.tenant,
        names.SERVICE: instance.service,
        **of_phase(instance, manifest, parameters, "activate"),
        orchestrator.PRIVATE: dict(private),
    }


def with_phases(activation: Mapping[str, Any], manifest: bundles.Manifest, phases: Sequence[str]) -> dict[str, Any]:
    """Return an activation with the phases to carry out, one after another."""
    return {
        **activation,
        orchestrator.PHASES: [
            {"phase": each, orchestrator.INTERNAL_PARAMETERS: _internal(manifest, each)} for each in phases
        ],
    }


def _internal(manifest: bundles.Manifest, phase: str) -> dict[str, Any]:
    return {each.name: each.value for each in manifest.internal.get(bundles.Phase(phase), ())}
