"""A bundle's template as an order contains it: its text, the files that it names, and the names of its parameters.

Formats with a `parameters` section (`infrastructure`, `hot`) declare their parameters there; other formats refer to them by
`${name}` in a leaf. Nothing is filled in here: the platform does that, where secrets may be. A template is read by its format's
parser, which also names the files that are sent with it; one that it refuses is not sent.

What was read of a bundle is kept, since its directory does not change: orders of one bundle, also concurrent ones, in a host that
other tenants share, read its template once.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as AnyMapping
from pathlib import Path
from typing import Final

import bundles
from archelon_core.auth.size_limit import MAX_BODY
from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import Mapping, descend
from bundles import hot
from bundles.infrastructure.parsing import parse
from bundles.infrastructure.rendering import DescriptionError
from bundles.text_files import TextFiles

from .errors import Failure

#: Documents that are kept.
_KEPT: Final = 32
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
        """Read a template of a bundle. Raises Failure if it is missing, invalid or too large.

        Args:
            environments: paths of Heat environments.
        """
        kept = _kept(bundle.directory, path, template_format, tuple(environments))
        with kept.lock:
            if kept.document is None and kept.failure is None:
                try:
                    kept.document = cls._read(bundle, path, template_format, environments)
                    _check_size(path, (kept.document.text, *kept.document.files.values()))
                except Failure as failure:
                    kept.document, kept.failure = None, str(failure)
        if kept.document is None:
            raise Failure(kept.failure or "", permanent=True)
        return kept.document

    @classmethod
    def _read(cls, bundle: bundles.Bundle, path: str, template_format: str, environments: Sequence[str]) -> Document:
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


class _Kept:
    """The document at a place, or why there is none, once one of its readers has found out."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.document: Document | None = None
        self.failure: str | None = None


@functools.lru_cache(_KEPT)
def _kept(_directory: Path, _path: str, _format: str, _environments: tuple[str, ...]) -> _Kept:
    return _Kept()


def _check_size(path: str, texts: Iterable[str]) -> None:
    """Refuse what deploy does not accept, before more of it is read. Raises Failure."""
    if sum(len(each.encode()) for each in texts) > MAX_BODY:
        message = (
            f"the template {path} and its files have more than {MAX_BODY} bytes, which deploy refuses; shorten them"
        )
        raise Failure(message, permanent=True)


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

    texts = {path: text}

    def read(name: str) -> str | None:
        try:
            texts[name] = bundle.read(name).decode()
        except (KeyError, UnicodeDecodeError):
            return None
        _check_size(path, texts.values())
        return texts[name]

    try:
        gathered = hot.gather(path, text, read=read, environments=environments)
    except bundles.BundleError as error:
        raise _failure(error) from None
    return {name: texts[name] for name in gathered.names}


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
