"""Translates an order to a request to Heat, and to the stack's name and tags.

A stack's name is derived from its order and its tags carry the labels, so that a worker that continues after a crash finds the
stack and creates no second one. The revision tag is a digest of the request: if it matches, Heat has received the order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import bundles
from archelon_core.transactions import forbid_in_transaction
from bundles import hot

from ...core.labels import Labels
from ..interface import DeployError, StackOrder
from .parameters import check_parameters, declared
from .scaling import with_counts

#: Tags everything that this cloud controller creates; the tags below carry the labels.
OURS: Final = "archelon"
_INSTANCE: Final = "archelon-instance="
_TENANT: Final = "archelon-tenant="
_SERVICE: Final = "archelon-service="
_GENERATION: Final = "archelon-generation="
_INSTALLATION: Final = "archelon-installation="
_REVISION: Final = "archelon-revision="
#: Heat's maximum length of a tag.
_LONGEST_TAG: Final = 80
_SHOWN_PROBLEMS: Final = 10


@dataclass(frozen=True)
class Request:
    """A request to Heat.

    Args:
        body: template, files, environment, parameters and tags. revision: a digest of it.
        secrets: values that must not appear in texts. template: the document, before counts are inserted.
    """

    body: Mapping[str, Any] = field(repr=False)
    revision: str
    secrets: tuple[str, ...] = field(repr=False)
    template: Mapping[str, Any] = field(repr=False)


def stack_name(order: StackOrder) -> str:
    """Return the name of an order's stack in its project."""
    return f"{order.name}-{order.id}"


def order_id(name: str) -> str:
    """Return the order's id from a stack's name."""
    return name[-36:]


def request_of(order: StackOrder) -> Request:
    """Read, resolve and check an order. Raises DeployError with all problems."""
    forbid_in_transaction("reading a template")
    gathered = _gathered(order)
    problems = check_parameters(gathered.template, order.parameters, gathered.environment)
    if problems:
        raise DeployError("; ".join(problems[:_SHOWN_PROBLEMS]))
    template = with_counts(gathered.template, order.counts, {**order.parameters})
    environment = {key: value for key, value in gathered.environment.items() if value}
    content = {
        "template": template,
        "files": dict(gathered.files),
        "environment": environment,
        "parameters": dict(order.parameters),
    }
    revision = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    hidden = {name for name, schema in declared(template).items() if str(schema.get("hidden", "")).lower() == "true"}
    secrets = {str(order.parameters[name]) for name in hidden | order.secrets if name in order.parameters}
    return Request(
        {**content, "tags": ",".join(tags_of(order.labels, revision))},
        revision,
        tuple(sorted(secrets, key=len, reverse=True)),
        gathered.template,
    )


def _gathered(order: StackOrder) -> hot.Gathered:
    name = order.source or "template"
    try:
        return hot.gather(name, order.template, read=order.files.get, environments=order.environments)
    except bundles.BundleError as error:
        raise DeployError("\n".join(str(each) for each in error.problems[:_SHOWN_PROBLEMS])) from error


def instance_tag(instance: str) -> str:
    """Return the tag that lists all stacks of an instance."""
    return _tag(_INSTANCE, instance)


def tag_value(tags: Iterable[str] | None, prefix: str) -> str:
    """Return the value of the tag with a prefix, or an empty string."""
    return next((each.removeprefix(prefix) for each in tags or () if each.startswith(prefix)), "")


def labels_of(tags: Iterable[str] | None) -> tuple[Labels, str]:
    """Return labels and revision from a stack's tags."""
    known = list(tags or ())
    generation = tag_value(known, _GENERATION)
    labels = Labels(
        tag_value(known, _INSTANCE),
        tag_value(known, _TENANT),
        tag_value(known, _SERVICE),
        int(generation) if generation.isdigit() else 0,
        tag_value(known, _INSTALLATION),
    )
    return labels, tag_value(known, _REVISION)


def tags_of(labels: Labels, revision: str) -> list[str]:
    """Return the tags of an instance's object; revision: a digest of its order."""
    return [
        OURS,
        _tag(_INSTANCE, labels.instance),
        _tag(_TENANT, labels.tenant),
        _tag(_SERVICE, labels.service),
        _tag(_GENERATION, str(labels.generation)),
        *([_tag(_INSTALLATION, labels.installation)] if labels.installation else ()),
        _tag(_REVISION, revision),
    ]


def _tag(prefix: str, value: str) -> str:
    """Return a tag; a value that does not fit is replaced by its digest."""
    tag = prefix + value
    if len(tag) <= _LONGEST_TAG and "," not in tag:
        return tag
    return prefix + hashlib.sha256(value.encode()).hexdigest()[:32]
