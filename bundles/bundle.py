"""A bundle: a directory with a manifest, templates and, if templates are not enough, an `orchestrator.py`.

`Bundle.load` reads everything that the manifest names, once, and raises an error with all problems; `validate` returns the same
list instead. Nothing in a bundle is executed here: `orchestrator.py` is only parsed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from archelon_core.documents.problems import MAX_PROBLEMS, DocumentError, Problem, listed
from archelon_core.documents.problems import Path as JsonPath
from archelon_core.documents.reading import only_document, read_file
from archelon_core.documents.tree import Json, Mapping, Mark, Node, descend

from . import hot
from .archives import ArchiveLimits, Digest, PackedFile, digest_of, pack_files, path_problems
from .code import MAX_CODE, ORCHESTRATOR_FILE, code_problems
from .ignore import IGNORE_FILE, Ignored
from .infrastructure.parsing import parse
from .infrastructure.rendering import IMPORTS, DescriptionError, Place, text_of
from .infrastructure.resource_types import RESOURCE_TYPES
from .manifest import Manifest, Templates
from .manifest_reading import MANIFEST_LIMITS, NEEDED, manifest_of, read_internal
from .templates import FILES, Reference, Scope, Template
from .text_files import TextFiles

MANIFEST_FILES = ("manifest.yaml", "manifest.yml", "manifest.json")
#: The manifest of a bundle for Hurtle, which is read if none of the above exists.
HURTLE_MANIFEST = "data/service_manifest.json"
#: Hurtle's file of the provider's parameters; if present, it is read even if the manifest does not name it.
INTERNAL_FILE = "service_params.json"

#: Formats whose `${…}` refer to the manifest's names. Others have their own: HOT's scripts are full of `${…}`, and those of an
#: infrastructure also name its nodes, which only its platform knows.
SUBSTITUTED_FORMATS = frozenset({"kubernetes"})
#: YAML tags of a format.
TEMPLATE_TAGS = {"infrastructure": IMPORTS}
#: Parameters with these prefixes come from the platform.
_PLATFORM_NAMES = ("org.archelon.", "occi.", "mcn.service.")
#: Stands for the instance's id in a template that is checked.
_INSTANCE = "org.archelon.instance"
_SOME_INSTANCE = "00000000-0000-4000-8000-000000000000"


class Packed(NamedTuple):
    """A bundle as an archive, and its digest."""

    archive: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded, valid bundle.

    Args:
        directory: its directory.
        manifest: its manifest, including the provider's parameters from a separate file.
        files: paths of all its files, sorted.
    """

    directory: Path
    manifest: Manifest
    files: tuple[str, ...]

    @classmethod
    def load(cls, directory: Path, *, checked: bool = False) -> Bundle:
        """Load the bundle in a directory.

        Args:
            checked: whether it was validated before, possibly by an earlier release: read only its manifest.

        Raises:
            DocumentError: with all problems in any of the files that are read.
        """
        loading = _Loading(directory, checked=checked)
        bundle = loading.run()
        if bundle is None:
            raise DocumentError(loading.problems)
        return bundle

    @property
    def has_code(self) -> bool:
        """Whether it has its own orchestrator, as Python or as an image."""
        return self.manifest.image is not None or ORCHESTRATOR_FILE in self.files

    @property
    def is_for_hurtle(self) -> bool:
        """Whether it has no other manifest than Hurtle's; its code is then Hurtle's too, and not run."""
        return self.manifest.source.file == HURTLE_MANIFEST

    def read(self, path: str) -> bytes:
        """The content of a file. Raises KeyError: no such file."""
        if path not in self.files:
            raise KeyError(path)
        return (self.directory / path).read_bytes()

    def template(self, path: str) -> Template:
        """A template of the bundle.

        Raises:
            KeyError: no such file.
            DocumentError: the file has changed since the bundle was loaded, and no longer parses.
        """
        if path not in self.files:
            raise KeyError(path)
        return Template(read_file(self.directory / path, name=path), file=path)

    def pack(self) -> Packed:
        """Pack its files. Equal files give equal bytes, whenever and wherever they were written.

        Raises:
            DocumentError: it is too large.
        """
        files = {path: _packed(self.directory / path) for path in self.files}
        archive = pack_files(files)
        return Packed(archive, digest_of(archive))


def validate(path: Path) -> list[Problem]:
    """All problems of a bundle, or of a single manifest, in the order of files and lines; at most 100.

    Args:
        path: the bundle's directory, or a manifest's file.
    """
    if not path.is_dir():
        try:
            manifest_of(_only_document(path, path.name), file=path.name)
        except DocumentError as error:
            return list(error.problems)
        return []
    loading = _Loading(path)
    loading.run()
    return sorted(set(loading.problems))[:MAX_PROBLEMS]


def problems_here(path: str) -> list[list[Any]]:
    """The same in a child process: each problem as a list of its fields."""
    return [list(dataclasses.astuple(each)) for each in validate(Path(path))]


def _only_document(path: Path, name: str) -> Node:
    return only_document(read_file(path, name=name, limits=MANIFEST_LIMITS), name, needed=NEEDED)


def _packed(path: Path) -> PackedFile:
    with path.open("rb") as stream:
        executable = bool(os.fstat(stream.fileno()).st_mode & 0o100)
        return PackedFile(stream.read(), executable)


class _Loading:
    """Reads one bundle and collects problems."""

    def __init__(self, directory: Path, *, checked: bool = False) -> None:
        self.problems: list[Problem] = []
        self._directory = directory
        self._checked = checked
        self._files: list[str] = []

    def run(self) -> Bundle | None:
        """The bundle, or None if there are problems."""
        try:
            self._files = sorted(self._scan())
        except DocumentError as error:
            self.problems.extend(error.problems)
            return None
        self.problems.extend(path_problems(self._files))
        manifest = self._manifest()
        if ORCHESTRATOR_FILE in self._files and not self._checked:
            self._check_code()
        if manifest is None:
            return None
        manifest = self._with_internal(manifest)
        self._check_image(manifest)
        if not self._checked:
            self._check_templates(manifest)
        if self.problems:
            return None
        return Bundle(self._directory, manifest, tuple(self._files))

    def _add(self, file: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(file, 0, 0, "", message, remedy))

    def _scan(self) -> Iterator[str]:
        limits = ArchiveLimits()
        ignored = Ignored(self._ignore_lines())
        todo = [""]
        count = size = 0
        while todo:
            below = todo.pop()
            try:
                entries = list(os.scandir(self._directory / below))
            except OSError as error:
                self._add(
                    below or ".", f"cannot be read: {error.strerror}", "check that it is a directory and its rights"
                )
                continue
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                if ignored(path, is_directory=is_directory):
                    continue
                if is_directory:
                    todo.append(path)
                elif entry.is_file(follow_symlinks=False):
                    count += 1
                    size += entry.stat(follow_symlinks=False).st_size
                    yield path
                else:
                    what = "a symbolic link" if entry.is_symlink() else "neither a file nor a directory"
                    self._add(path, what, f"put a copy in its place, or exclude it in {IGNORE_FILE}")
                if count > limits.files or size > limits.unpacked:
                    message = f"more than {limits.files} files or {limits.unpacked} bytes"
                    raise DocumentError(
                        [Problem(".", 0, 0, "", message, f"exclude some in {IGNORE_FILE}, or use an image")]
                    )

    def _ignore_lines(self) -> list[str]:
        place = self._directory / IGNORE_FILE
        if not place.is_file():
            return []
        with place.open("rb") as stream:
            return stream.read(256 * 1024).decode("utf-8", "replace").splitlines()

    def _manifest(self) -> Manifest | None:
        found = [name for name in MANIFEST_FILES if name in self._files]
        if not found and HURTLE_MANIFEST in self._files:
            found = [HURTLE_MANIFEST]
        if not found:
            self._add(MANIFEST_FILES[0], "no manifest", "write one; see docs/manifest.md")
            return None
        if len(found) > 1:
            self._add(found[1], f"a second manifest beside {found[0]}", "keep one of them")
            return None
        name = found[0]
        try:
            return manifest_of(_only_document(self._directory / name, name), file=name, checked=self._checked)
        except DocumentError as error:
            self.problems.extend(error.problems)
            return None

    def _with_internal(self, manifest: Manifest) -> Manifest:
        name = manifest.internal_file
        if name is not None:
            if not self._require_file(manifest, name, ("service_params",)):
                return manifest
        elif INTERNAL_FILE in self._files:
            name = INTERNAL_FILE
            if manifest.internal:
                path: JsonPath = ("service_params",)
                remedy = "keep the parameters in one of the two"
                self.problems.append(manifest.source.problem(path, f"{name} exists too", remedy, key=True))
                return manifest
        else:
            return manifest
        try:
            root = _only_document(self._directory / name, name)
            return dataclasses.replace(manifest, internal=read_internal(root, file=name))
        except DocumentError as error:
            self.problems.extend(error.problems)
            return manifest

    def _require_file(self, manifest: Manifest, name: str, path: JsonPath) -> bool:
        if name in self._files:
            return True
        remedy = "put the file into the bundle"
        if (self._directory / name).exists():
            remedy = f"stop ignoring it: write !{name} in {IGNORE_FILE}"
        self.problems.append(manifest.source.problem(path, f"the bundle has no file {name}", remedy))
        return False

    def _check_image(self, manifest: Manifest) -> None:
        if manifest.image is not None and ORCHESTRATOR_FILE in self._files:
            message = f"{ORCHESTRATOR_FILE} exists too"
            remedy = "keep one of the two: an image contains its own code"
            self.problems.append(manifest.source.problem(("image",), message, remedy, key=True))
        if manifest.icon is not None:
            self._require_file(manifest, manifest.icon, ("icon",))

    def _check_code(self) -> None:
        with (self._directory / ORCHESTRATOR_FILE).open("rb") as stream:
            self.problems.extend(code_problems(stream.read(MAX_CODE + 1)))

    def _check_templates(self, manifest: Manifest) -> None:
        done: set[tuple[str, str]] = set()
        for name, path, templates in _template_sets(manifest):
            for part, file in (("deployment", templates.deployment), ("provision", templates.provision)):
                if file is None or (name, file) in done or not self._require_file(manifest, file, (*path, part)):
                    continue
                done.add((name, file))
                if name == "infrastructure":
                    self._check_infrastructure(manifest, file)
                elif name == "hot":
                    self._check_hot(manifest, file, templates.environments)
                elif name in SUBSTITUTED_FORMATS:
                    self._check_kubernetes(manifest, file)

    def _check_infrastructure(self, manifest: Manifest, file: str) -> None:
        files = TextFiles(self._files, lambda name: (self._directory / name).read_bytes())
        try:
            text = text_of(files, file, Place(file, 1, 1))
            description = parse(text, files=files, types=RESOURCE_TYPES, others=True, name=file)
        except DescriptionError as error:
            self.problems.append(error.as_problem())
            return
        places = {each.name: each.place for each in description.parameters.values() if each.default is None}
        self._check_values(manifest, file, {name: Mark(place.line, place.column) for name, place in places.items()})

    def _check_values(self, manifest: Manifest, file: str, parameters: AnyMapping[str, Mark]) -> None:
        """Check that something gives a value to each of these parameters, which have no default."""
        known = self._known_names(manifest)
        if known is None:
            return
        for name, mark in parameters.items():
            if name not in known and not name.startswith(_PLATFORM_NAMES):
                message = f"nothing gives the parameter {name!r} a value"
                remedy = f"add a default, declare it in service_attributes, or name one of {listed(known)}"
                self.problems.append(Problem(file, *mark, "", message, remedy))

    def _known_names(self, manifest: Manifest) -> set[str] | None:
        """The parameters' names that templates get; None if code, or a supplier with its attributes, may add others."""
        has_code = manifest.image is not None or ORCHESTRATOR_FILE in self._files
        return None if has_code or manifest.dependencies else _parameter_names(manifest)

    def _check_hot(self, manifest: Manifest, file: str, environments: Sequence[str]) -> None:
        def read(name: str) -> str | None:
            try:
                return (self._directory / name).read_text(encoding="utf-8") if name in self._files else None
            except (OSError, UnicodeDecodeError):
                return None

        try:
            documents = read_file(self._directory / file, name=file)
            gathered = hot.gather(file, read(file) or "", read=read, environments=environments)
        except DocumentError as error:
            self.problems.extend(error.problems)
            return
        declared = descend(documents[0], ("parameters",))
        sections = (gathered.environment.get(each) for each in ("parameters", "parameter_defaults"))
        given = {name for section in sections if isinstance(section, dict) for name in section}
        entries = declared.entries if isinstance(declared, Mapping) else ()
        wanted = {entry.key: entry.mark for entry in entries if descend(entry.node, ("default",)) is None}
        self._check_values(manifest, file, {name: mark for name, mark in wanted.items() if name not in given})

    def _check_kubernetes(self, manifest: Manifest, file: str) -> None:
        # Its paths in JSON take long to import, and most bundles have none.
        from .kubernetes.objects import Placeholder, read_objects

        try:
            template = Template(read_file(self._directory / file, name=file), file=file)
        except DocumentError as error:
            self.problems.extend(error.problems)
            return
        for found in template.references:
            if found.node is not None:
                self._check_file(found, file)
        parameters = [found for found in template.references if found.node is None]
        known = self._known_names(manifest)
        if known is not None:
            remedy = f"declare it in service_attributes, or name one of {listed(known)}"
            unknown = [
                found for found in parameters if not found.name.startswith(_PLATFORM_NAMES) and found.name not in known
            ]
            for found in unknown[:MAX_PROBLEMS]:
                self.problems.append(found.problem(file, f"${{{found.text}}} is unknown", remedy))
        values: dict[str, Json] = {found.name: Placeholder(found.name) for found in parameters}
        outputs: dict[str, dict[str, Json]] = {}
        for found in template.references:
            if found.node is not None:
                outputs.setdefault(found.node, {})[found.name] = Placeholder(found.name)
        documents = template.render(Scope({**values, _INSTANCE: _SOME_INSTANCE}, outputs))
        pairs = list(zip(template.documents, documents, strict=True))
        self.problems.extend(read_objects(pairs, file=file, instance=_SOME_INSTANCE)[1])

    def _check_file(self, reference: Reference, file: str) -> None:
        """Check a reference that is not a parameter, which only a file can be: no other node is known to the platform."""
        if reference.node != FILES:
            message = f"${{{reference.text}}}: no node {reference.node}"
            self.problems.append(reference.problem(file, message, "write ${files:name}, or ${name} for a parameter"))
        elif reference.name not in self._files:
            remedy = f"expected one of {listed(self._files)}"
            self.problems.append(reference.problem(file, f"${{{reference.text}}}: no such file", remedy))
        else:
            try:
                (self._directory / reference.name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                remedy = "name a text; write binary data in base64, in a Secret's or ConfigMap's own field"
                self.problems.append(reference.problem(file, f"the file {reference.name} is not UTF-8 text", remedy))


def _template_sets(manifest: Manifest) -> Iterator[tuple[str, JsonPath, Templates]]:
    for name, templates in manifest.templates.items():
        yield name, ("templates", name), templates
    for region, resources in manifest.resources.items():
        if resources.templates is not None:
            yield resources.format or "", ("resources", region), resources.templates


def _parameter_names(manifest: Manifest) -> set[str]:
    names = set(manifest.attributes)
    for parameters in manifest.internal.values():
        names.update(parameter.name for parameter in parameters)
    for resources in manifest.resources.values():
        names.update(resources.parameters)
    return names
