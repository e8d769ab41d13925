"""Bundles: the manifest model, service graphs, safe rendering of templates, packing by digest.

A service is described by files; this package reads them, reports everything that is wrong with them, and returns them as frozen
values. It runs outside of services (an author's machine, CI) and imports no server.

    bundle = bundles.Bundle.load(Path("guestbook"))
    archive, digest = bundle.pack()
    bundles.unpack(archive, store / digest, digest=digest)
"""

from __future__ import annotations

from archelon_core.documents.problems import DocumentError as BundleError
from archelon_core.documents.problems import Problem
from archelon_core.documents.tree import DocumentLimits, Json

from .archives import ArchiveLimits, Digest, PackedFile, digest_of, pack_files, read_archive, sweep_unfinished, unpack
from .bundle import SUBSTITUTED_FORMATS, TEMPLATE_TAGS, Bundle, Packed, validate
from .graph import ServiceGraph, layers, supplier_layers
from .manifest import (
    Action,
    Attribute,
    Binding,
    Dependency,
    Input,
    InternalParameter,
    Manifest,
    Mutability,
    OnFailedCreate,
    Phase,
    PhasePolicy,
    Quotas,
    Resources,
    Templates,
)
from .manifest_reading import read_manifest
from .schema import manifest_schema
from .templates import FILES, Reference, Scope, Template, to_text
from .values import Pattern, PatternError, ValueType, misfit

__all__ = [
    "FILES",
    "SUBSTITUTED_FORMATS",
    "TEMPLATE_TAGS",
    "Action",
    "ArchiveLimits",
    "Attribute",
    "Binding",
    "Bundle",
    "BundleError",
    "Dependency",
    "Digest",
    "DocumentLimits",
    "Input",
    "InternalParameter",
    "Json",
    "Manifest",
    "Mutability",
    "OnFailedCreate",
    "Packed",
    "PackedFile",
    "Pattern",
    "PatternError",
    "Phase",
    "PhasePolicy",
    "Problem",
    "Quotas",
    "Reference",
    "Resources",
    "Scope",
    "ServiceGraph",
    "Template",
    "Templates",
    "ValueType",
    "digest_of",
    "layers",
    "manifest_schema",
    "misfit",
    "pack_files",
    "read_archive",
    "read_manifest",
    "supplier_layers",
    "sweep_unfinished",
    "to_text",
    "unpack",
    "validate",
]
