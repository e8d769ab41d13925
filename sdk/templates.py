"""A bundle's template as an order carries it: its text, the files it names, and the names of the parameters it takes.

Formats with a `parameters` section of their own (`infrastructure`, `hot`) say there what they take; in others a `${name}` in a
leaf says it. Nothing is filled in here: the platform does that, where secrets may be. The files are those of the bundle that the
template names, and a template of Heat that names another is refused before it is sent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Final

import yaml

import bundles
from bundles import hot

from .errors import Failure

__all__ = ["Document"]

_DECLARING: Final = frozenset({"infrastructure", "hot"})
_REFERENCE: Final = re.compile(r"(?<!\$)\$\{\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*\}")
#: Occopus' node definitions come along without being named.
_COMES_ALONG: Final = ("node_definitions.yaml", "node_definitions.yml")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A template, ready to be sent."""

    text: str
    parameters: tuple[str, ...]
    files: Mapping[str, str]

    @classmethod
    def read(
        cls, bundle: bundles.Bundle, path: str, template_format: str, environments: Sequence[str] = ()
    ) -> Document:
        """A template of a bundle. Raises Failure where the bundle has none at the path, or it cannot be read.

        Args:
            environments: paths of Heat's environments.
        """
        try:
            text = bundle.read(path).decode()
        except KeyError:
            raise Failure(f"the bundle has no template {path}; publish it again with one") from None
        except UnicodeDecodeError:
            raise Failure(f"the template {path} is not UTF-8") from None
        names = _declared(text, path) if template_format in _DECLARING else _referred(text)
        if template_format == "hot":
            return cls(text, tuple(names), _named(bundle, path, text, environments))
        return cls(text, tuple(names), _files(bundle, path, text))


def _declared(text: str, path: str) -> list[str]:
    # Composed, not constructed: tags such as !text_import stay what they are.
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise Failure(f"the template {path} is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value in ("parameters", "Parameters") and isinstance(value, yaml.MappingNode):
            return [str(name.value) for name, _ in value.value]
    return []


def _referred(text: str) -> list[str]:
    return list(dict.fromkeys(_REFERENCE.findall(text)))


def _named(bundle: bundles.Bundle, path: str, text: str, environments: Sequence[str]) -> dict[str, str]:
    """The files that a template of Heat and its environments name, and those that they name in turn."""

    def read(name: str) -> str | None:
        try:
            return bundle.read(name).decode()
        except (KeyError, UnicodeDecodeError):
            return None

    try:
        gathered = hot.gather(path, text, read=read, environments=environments)
    except bundles.BundleError as error:
        raise Failure("\n".join(str(each) for each in error.problems[:5])) from None
    return {name: str(read(name)) for name in gathered.names}


def _files(bundle: bundles.Bundle, path: str, text: str) -> dict[str, str]:
    """The text files that the template names, and those that they name in turn."""
    found: dict[str, str] = {}
    texts = [text]
    candidates = [each for each in bundle.files if each != path]
    while texts:
        reading = texts.pop()
        for each in candidates:
            if each in found or not (each in reading or each.rpartition("/")[2] in _COMES_ALONG):
                continue
            try:
                found[each] = bundle.read(each).decode()
            except UnicodeDecodeError:
                continue
            texts.append(found[each])
    return found
