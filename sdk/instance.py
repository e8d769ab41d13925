"""The instance that an orchestrator works for, and its order, as frozen values."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

from archelon_api import names

from .errors import Failure

_TYPES: Final[Mapping[Any, tuple[type, ...]]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """The instance, at one generation of its order.

    Attributes:
        id: a UUID as text.
        tenant: id of the owner.
        service: type identifier of the service.
        generation: of the order; it grows with every update.
        parameters: the tenant's attributes.
        internal: the provider's parameters for the present phase.
    """

    id: str
    tenant: str
    service: str
    generation: int = 1
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    internal: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def labels(self) -> dict[str, Any]:
        """The labels of every object of the instance."""
        return {names.INSTANCE: self.id, names.SERVICE: self.service, names.GENERATION: self.generation}

    @property
    def region(self) -> str | None:
        """The region that the tenant chose, or None."""
        region = self.parameters.get(names.REGION)
        return str(region) if region else None


def typed(of: Any, values: Mapping[str, Any]) -> Any:
    """Return parameters as an author's dataclass.

    A field `size` takes the attribute `size`, or the one that ends in it (`guestbook.size`); dots and hyphens become `_`, so
    `guestbook_size` is the full name. `field(metadata={"attribute": "…"})` names any attribute.

    Args:
        of: the dataclass, with fields of str, int, float, bool, list, dict, or one of these or None.
        values: by attribute.

    Raises:
        Failure: a field without a default has no value, or a value has the wrong type.
    """
    hints = typing.get_type_hints(of)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(of):
        name = field.metadata.get("attribute") or _attribute(field.name, values)
        if name is None or values.get(name) is None:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise Failure(
                    f"the parameter {field.metadata.get('attribute', field.name)} has no value; set one", permanent=True
                )
            continue
        value = values[name]
        if not _fits(value, hints[field.name]):
            raise Failure(f"the parameter {name} has the wrong type {type(value).__name__}; correct it", permanent=True)
        given[field.name] = value
    return of(**given)


def _attribute(field: str, values: Mapping[str, Any]) -> str | None:
    if field in values:
        return field
    plain = {name: name.replace(".", "_").replace("-", "_") for name in values}
    for name, spelled in plain.items():
        if spelled == field:
            return name
    ends = [name for name, spelled in plain.items() if spelled.endswith(f"_{field}")]
    if len(ends) > 1:
        raise Failure(f"the parameter {field} could be {' or '.join(sorted(ends))}; name one in the field's metadata")
    return ends[0] if ends else None


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if hint is Any:
        return True
    if hint in (None, type(None)):
        return value is None
    wanted = _TYPES.get(hint)
    if wanted is None:
        plain = origin or hint
        return not isinstance(plain, type) or isinstance(value, plain)
    return isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))
