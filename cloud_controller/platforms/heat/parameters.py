"""Checks an order's parameters against its template before anything is created: names, types, constraints, completeness.

Heat itself checks what depends on the cloud, such as images and custom constraints, on creation. No error text contains a
value, since any may be a secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import re2

#: CloudFormation's keys, by HOT's.
_CFN_KEYS: Final = {"type": "Type", "default": "Default", "hidden": "NoEcho"}
_TYPES: Final = frozenset({"string", "number", "comma_delimited_list", "json", "boolean"})
_TRUE: Final = frozenset({"t", "true", "on", "y", "yes", "1"})
_FALSE: Final = frozenset({"f", "false", "off", "n", "no", "0"})
#: Maximum length of a pattern; RE2 matches in linear time, but compiles long patterns slowly.
_LONGEST_PATTERN: Final = 2000


def declared(template: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the parameters that a template declares, each as a HOT schema."""
    sections = template.get("parameters"), template.get("Parameters")
    found: dict[str, Mapping[str, Any]] = {}
    for section in sections:
        for name, schema in section.items() if isinstance(section, dict) else ():
            if isinstance(schema, dict):
                found[str(name)] = _as_hot(schema)
    return found


def check_parameters(
    template: Mapping[str, Any], given: Mapping[str, Any], environment: Mapping[str, Any]
) -> list[str]:
    """Return a message for each problem; each names its parameter.

    Args:
        given: by the order. environment: as sent to Heat; its `parameters` apply where the order gives none.
    """
    known = declared(template)
    presets = _section(environment, "parameters")
    defaults = _section(environment, "parameter_defaults")
    values = {**presets, **given}
    problems = []
    for name in sorted(values.keys() - known.keys()):
        expected = ", ".join(sorted(known)) or "none"
        problems.append(f"the template has no parameter {name[:80]!r}; expected one of {expected}")
    for name, schema in known.items():
        if name in values:
            problems.extend(f"the parameter {name!r} {fault}" for fault in _faults(schema, values[name]))
        elif name not in defaults and schema.get("default") is None:
            problems.append(f"the parameter {name!r} is missing; give it a value")
    return problems


def _section(environment: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = environment.get(name)
    return found if isinstance(found, dict) else {}


def _as_hot(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "Type" not in schema:
        return dict(schema)
    found: dict[str, Any] = {hot: schema[word] for hot, word in _CFN_KEYS.items() if word in schema}
    kind = str(found["type"]).lower()
    found["type"] = {"commadelimitedlist": "comma_delimited_list"}.get(kind, kind)
    constraints: list[dict[str, Any]] = []
    for key, least, most in (("length", "MinLength", "MaxLength"), ("range", "MinValue", "MaxValue")):
        bounds = {end: schema[word] for end, word in (("min", least), ("max", most)) if word in schema}
        if bounds:
            constraints.append({key: bounds})
    for key, word in (("allowed_values", "AllowedValues"), ("allowed_pattern", "AllowedPattern")):
        if word in schema:
            constraints.append({key: schema[word]})
    if "ConstraintDescription" in schema:
        constraints = [{**each, "description": schema["ConstraintDescription"]} for each in constraints]
    return {**found, "constraints": constraints}


def _faults(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    kind = str(schema.get("type", "string")).lower()
    if kind not in _TYPES:
        yield f"has the type {kind[:40]!r}, which Heat does not know; expected one of {', '.join(sorted(_TYPES))}"
        return
    read = _read(kind, value)
    if isinstance(read, _Invalid):
        yield f"is not {read.wanted}"
        return
    for constraint in schema.get("constraints") or ():
        if isinstance(constraint, dict):
            for key, check in _CHECKS.items():
                fault = check(constraint[key], read) if key in constraint else ""
                if fault:
                    description = constraint.get("description")
                    yield f"{fault} ({description})" if description else fault


class _Invalid:
    def __init__(self, wanted: str) -> None:
        self.wanted = wanted


def _read(kind: str, value: Any) -> Any:
    """Return the value as Heat reads it."""
    if kind == "number":
        return _number(value)
    if kind == "boolean":
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        return word in _TRUE if word in _TRUE | _FALSE else _Invalid("a boolean; write true or false")
    if kind == "json":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return _Invalid("JSON")
        return value if isinstance(value, dict | list) else _Invalid("a JSON object or array")
    if kind == "comma_delimited_list":
        if isinstance(value, list):
            return [str(each) for each in value]
        return [each.strip() for each in str(value).split(",")] if str(value) else []
    if isinstance(value, dict | list):
        return _Invalid("text")
    return _text(value)


def _number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return _Invalid("a number")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _length(bounds: Any, value: Any) -> str:
    size = len(value) if isinstance(value, str | list | dict) else len(str(value))
    return _between(bounds, size, "has a length of {0}, which is {1}")


def _range(bounds: Any, value: Any) -> str:
    number = _number(value)
    if isinstance(number, _Invalid):
        return "is not a number"
    # Without the value, which may be a secret.
    return _between(bounds, number, "is {1}")


def _between(bounds: Any, value: float, text: str) -> str:
    if not isinstance(bounds, dict):
        return ""
    low, high = (_number(bounds[end]) if end in bounds else None for end in ("min", "max"))
    if isinstance(low, int | float) and value < low:
        return text.format(value, f"less than {low:g}")
    if isinstance(high, int | float) and value > high:
        return text.format(value, f"more than {high:g}")
    return ""


def _allowed_values(allowed: Any, value: Any) -> str:
    if not isinstance(allowed, list):
        return ""
    texts = {_text(each) for each in allowed}
    given = [_text(each) for each in value] if isinstance(value, list) else [_text(value)]
    if isinstance(value, bool):
        texts = {str(_text(each) in _TRUE).lower() for each in allowed}
    if all(each in texts for each in given):
        return ""
    return f"is not one of {', '.join(str(each)[:60] for each in allowed[:20])}"


def _allowed_pattern(pattern: Any, value: Any) -> str:
    if not isinstance(value, str) or not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN:
        return ""
    try:
        compiled = re2.compile(pattern)
    except re2.error:
        # Python's patterns are richer than RE2's; Heat uses Python's and checks it.
        return ""
    return "" if compiled.fullmatch(value) else f"does not match {pattern[:120]}"


def _modulo(of: Any, value: Any) -> str:
    step, offset = (_number(of.get(key)) if isinstance(of, dict) else None for key in ("step", "offset"))
    number = _number(value)
    if not all(isinstance(each, int) for each in (step, offset, number)) or not step:
        return ""
    return "" if number % step == offset else f"is not {offset} beyond a multiple of {step}"


_CHECKS: Final[Mapping[str, Callable[[Any, Any], str]]] = {
    "length": _length,
    "range": _range,
    "allowed_values": _allowed_values,
    "allowed_pattern": _allowed_pattern,
    "modulo": _modulo,
}
