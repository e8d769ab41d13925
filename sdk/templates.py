"""A bundle's template as an order contains it: its text, the files that it names, and the names of its parameters.

Formats with a `parameters` section (`infrastructure`, `hot`) declare their parameters there; other formats refer to them by
`${name}` in a leaf. Nothing is filled in here: the platform does that, where secrets may be. Only files of the bundle are sent; a
Heat template that names any other file is refused before it is sent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from typing import Final

import bundles
from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import Mapping, descend
from bundles import hot

from .errors import Failure

_DECLARING: Final = frozenset({"infrastructure", "hot"})
_REFERENCE: Final = re.compile(r"(?<!\$)\$\{\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*\}")
#: Occopus' node definitions, which are always sent.
_COMES_ALONG: Final = ("node_definitions.yaml", "node_definitions.yml")


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A template, ready to send."""

    text: str
    parameters: tuple[str, ...]
    files: AnyMapping[str, str]

    @classmethod
    def read(
        cls, bundle: bundles.Bundle, path: str, template_format: str, environments: Sequence[str] = ()
    ) -> Document:
        """Read a template of a bundle. Raises Failure if it is missing or invalid.

        Args:
            environments: paths of Heat environments.
        """
        try:
            text = bundle.read(path).decode()
        except KeyError:
            raise Failure(f"the bundle has no template {path}; publish it again with one", permanent=True) from None
        except UnicodeDecodeError:
            raise Failure(f"the template {path} is not UTF-8", permanent=True) from None
        declares = template_format in _DECLARING
        names = _declared(text, path, template_format) if declares else dict.fromkeys(_REFERENCE.findall(text))
        files = _named(bundle, path, text, environments) if template_format == "hot" else _files(bundle, path, text)
        return cls(text, tuple(names), files)


def _declared(text: str, path: str, template_format: str) -> list[str]:
    try:
        documents = read_text(text, file=path, tags=bundles.TEMPLATE_TAGS.get(template_format, frozenset()))
    except bundles.BundleError as error:
        raise _failure(error) from None
    for root in documents[:1]:
        for name in ("parameters", "Parameters"):
            declared = descend(root, (name,))
            if isinstance(declared, Mapping):
                return [entry.key for entry in declared.entries]
    return []


def _named(bundle: bundles.Bundle, path: str, text: str, environments: Sequence[str]) -> dict[str, str]:
    """The files that a Heat template and its environments name, directly or indirectly."""

    def read(name: str) -> str | None:
        try:
            return bundle.read(name).decode()
        except (KeyError, UnicodeDecodeError):
            return None

    try:
        gathered = hot.gather(path, text, read=read, environments=environments)
    except bundles.BundleError as error:
        raise _failure(error) from None
    return {name: str(read(name)) for name in gathered.names}


def _failure(error: bundles.BundleError) -> Failure:
    return Failure("\n".join(str(each) for each in error.problems[:5]), permanent=True)


def _files(bundle: bundles.Bundle, path: str, text: str) -> dict[str, str]:
    """The text files that the template names, directly or indirectly."""
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
