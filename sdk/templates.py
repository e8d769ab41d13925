"""A bundle's template as an order contains it: its text, the files that it names, and the names of its parameters.

Formats with a `parameters` section (`infrastructure`, `hot`) declare their parameters there; other formats refer to them by
`${name}` in a leaf. Nothing is filled in here: the platform does that, where secrets may be. A template is read by its format's
parser, which also names the files that are sent with it; one that it refuses is not sent.
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
from bundles.infrastructure.parsing import parse
from bundles.infrastructure.rendering import DescriptionError
from bundles.text_files import TextFiles

from .errors import Failure

_REFERENCE: Final = re.compile(r"(?<!\$)\$\{\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*\}")


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
        if template_format == "hot":
            return cls(text, tuple(_declared(text, path)), _named(bundle, path, text, environments))
        if template_format == "infrastructure":
            return cls._of_infrastructure(bundle, path, text)
        if template_format in bundles.SUBSTITUTED_FORMATS:
            return cls._of_leaves(bundle, path, text)
        return cls(text, tuple(dict.fromkeys(_REFERENCE.findall(text))), _mentioned(bundle, path, text))

    @classmethod
    def _of_infrastructure(cls, bundle: bundles.Bundle, path: str, text: str) -> Document:
        files = TextFiles(bundle.files, bundle.read)
        try:
            # Types' keys are checked when a bundle is published, and at deploy: a stored one may be older than a check.
            description = parse(text, files=files, types={}, others=True, name=path)
        except DescriptionError as error:
            raise Failure(str(error), permanent=True) from None
        return cls(text, tuple(description.parameters), files.used)

    @classmethod
    def _of_leaves(cls, bundle: bundles.Bundle, path: str, text: str) -> Document:
        files = TextFiles(bundle.files, bundle.read)
        try:
            references = bundles.Template.parse(text, file=path).references
            for each in references:
                if each.node == bundles.FILES and each.name in files:
                    files[each.name]
        except bundles.BundleError as error:
            raise _failure(error) from None
        except UnicodeDecodeError:
            raise Failure(f"{path} names the file {each.name}, which is not UTF-8 text", permanent=True) from None
        return cls(text, tuple(dict.fromkeys(each.name for each in references if each.node is None)), files.used)


def _declared(text: str, path: str) -> list[str]:
    try:
        documents = read_text(text, file=path)
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


def _mentioned(bundle: bundles.Bundle, path: str, text: str) -> dict[str, str]:
    """The text files whose paths a template of an unknown format contains, and those that these contain."""
    found: dict[str, str] = {}
    texts = [text]
    candidates = [each for each in bundle.files if each != path]
    while texts:
        reading = texts.pop()
        for each in candidates:
            if each in found or each not in reading:
                continue
            try:
                found[each] = bundle.read(each).decode()
            except UnicodeDecodeError:
                continue
            texts.append(found[each])
    return found
