"""A bundle as one archive: reproducible byte for byte on every machine, and safe to unpack if untrusted.

The archive is a gzip of a POSIX ustar. Names are sorted; time, owner and group are zero; the mode of a file is 0644, or 0755 if
its owner may execute it. The gzip contains *stored* blocks: compressed output differs between zlib, zlib-ng and their versions,
and the digest must not depend on the machine. Bundles are small; the transport may compress.

Reading accepts any gzip of a ustar of plain files and directories, and nothing else: links, devices, sparse files and extended
headers are refused. It parses the headers' 512 bytes itself instead of using `tarfile`, which interprets all of these (and,
before its fixes of 2024 and 2025, could be stalled by them), on whatever Python the service runs.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NewType

from archelon_core.documents.problems import DocumentError, Problem

from .archive_paths import collision_key, path_fault

#: SHA-256 of an archive's bytes, 64 lower-case hexadecimal digits.
Digest = NewType("Digest", str)

_BLOCK = 512
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_STORED = 0xFFFF
_CHUNK = 64 * 1024
_NAME = "the archive"
_WORKSPACE = ".unpacking-"


class ArchiveLimits(NamedTuple):
    """Limits on an archive.

    Args:
        packed: bytes of the archive.
        unpacked: bytes of its contents, including headers.
        files: number of files and directories.
        ratio: bytes per byte of the archive after decompression, above one mebibyte.
    """

    packed: int = 32 * 1024 * 1024
    unpacked: int = 64 * 1024 * 1024
    files: int = 2000
    ratio: int = 100


_DEFAULT = ArchiveLimits()
_RATIO_FREE = 1024 * 1024


class PackedFile(NamedTuple):
    """A file in an archive.

    Args:
        content: its bytes.
        executable: whether its owner may execute it.
    """

    content: bytes
    executable: bool = False


def digest_of(archive: bytes) -> Digest:
    """The digest of an archive, which names it."""
    return Digest(hashlib.sha256(archive).hexdigest())


def pack_files(files: Mapping[str, PackedFile], *, limits: ArchiveLimits = _DEFAULT) -> bytes:
    """Pack files into an archive; equal files give equal bytes.

    Args:
        files: by path inside the bundle.
        limits: on the result.

    Raises:
        DocumentError: a path cannot be in a bundle, two paths are the same on some systems, or a limit is exceeded.
    """
    problems = list(path_problems(files))
    if problems:
        raise DocumentError(problems)
    if len(files) > limits.files:
        raise _refusal(f"more than {limits.files} files", "exclude some with .archelonignore")
    out = io.BytesIO()
    for path in sorted(files):
        content, executable = files[path]
        out.write(_header(path, len(content), executable=executable))
        out.write(content)
        out.write(b"\0" * (-len(content) % _BLOCK))
        if out.tell() > limits.unpacked:
            raise _refusal(f"more than {limits.unpacked} bytes", "exclude files with .archelonignore, or use an image")
    out.write(b"\0" * (2 * _BLOCK))
    archive = _stored_gzip(out.getvalue())
    if len(archive) > limits.packed:
        raise _refusal(f"more than {limits.packed} bytes packed", "exclude files with .archelonignore, or use an image")
    return archive


def path_problems(paths: Iterable[str]) -> Iterator[Problem]:
    """Problems of these paths, individually and together."""
    seen: dict[str, str] = {}
    ordered = sorted(paths)
    for path in ordered:
        fault = path_fault(path)
        if fault is not None:
            yield Problem(_printable(path), 0, 0, "", fault, "rename it")
        other = seen.setdefault(collision_key(path), path)
        if other != path:
            yield Problem(
                _printable(path),
                0,
                0,
                "",
                f"the same name as {_printable(other)} on some systems",
                "rename one of them",
            )
    for path in ordered:
        parts = path.split("/")
        for end in range(1, len(parts)):
            directory = "/".join(parts[:end])
            other = seen.get(collision_key(directory), "")
            if other:
                message = f"its directory has the same name as {_printable(other)} on some systems"
                yield Problem(_printable(path), 0, 0, "", message, "rename one of them")


def read_archive(
    archive: bytes, *, digest: str | None = None, limits: ArchiveLimits = _DEFAULT
) -> dict[str, PackedFile]:
    """Read the files of an archive, by path.

    Args:
        archive: its bytes.
        digest: their expected hash; None if the caller has checked it.
        limits: on the archive.

    Raises:
        DocumentError: the digest differs, a limit is exceeded, or the archive contains what a bundle must not.
    """
    if len(archive) > limits.packed:
        raise _refusal(f"more than {limits.packed} bytes packed", "exclude files with .archelonignore, or use an image")
    if digest is not None and digest_of(archive) != digest:
        raise _refusal("its digest is not the one it was sent under", "send it again, under the SHA-256 of its bytes")
    return _read_tar(_gunzip(archive, limits), limits)


def unpack(archive: bytes, target: Path, *, digest: str | None = None, limits: ArchiveLimits = _DEFAULT) -> Path:
    """Write an archive's files to a directory, atomically.

    An existing target is complete, since it was renamed into place: nothing is done. Name it by the digest. A process that is
    killed meanwhile leaves a hidden directory, which `sweep_unfinished` removes.

    Args:
        archive: its bytes.
        target: the directory to create; its parent exists on the same file system.
        digest: the expected hash of the bytes.
        limits: on the archive.

    Returns:
        The target.

    Raises:
        DocumentError: as `read_archive`.
        OSError: the files cannot be written; nothing is left behind.
    """
    if target.is_dir():
        return target
    files = read_archive(archive, digest=digest, limits=limits)
    # mkdtemp creates it with mode 0700, so no other user can insert a link while files are being written.
    workspace = Path(tempfile.mkdtemp(prefix=_WORKSPACE, dir=target.parent))
    try:
        _write(files, workspace)
        try:
            workspace.rename(target)
        except OSError:
            # A concurrent process finished first: rename(2) never replaces a non-empty directory.
            if not target.is_dir():
                raise
        else:
            _sync(target.parent)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return target


def sweep_unfinished(parent: Path, *, before: float) -> int:
    """Remove the workspaces of processes that were killed while unpacking.

    Args:
        parent: the directory of the targets.
        before: seconds since the epoch; younger workspaces may be in use.

    Returns:
        The number of removed workspaces.
    """
    removed = 0
    for place in parent.glob(f"{_WORKSPACE}*"):
        if place.is_dir() and place.stat().st_mtime < before:
            shutil.rmtree(place)
            removed += 1
    return removed


def _write(files: Mapping[str, PackedFile], directory: Path) -> None:
    created = {directory}
    for path, (content, executable) in files.items():
        place = directory / path
        if place.parent not in created:
            place.parent.mkdir(parents=True, exist_ok=True)
            created.update(parent for parent in place.parents if parent.is_relative_to(directory))
        with place.open("xb") as stream:
            os.fchmod(stream.fileno(), 0o755 if executable else 0o644)
            stream.write(content)
            stream.flush()
            # Otherwise a power cut could leave names without content, which would count as complete.
            os.fsync(stream.fileno())
    for parent in created:
        parent.chmod(0o755)
        _sync(parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header(path: str, size: int, *, executable: bool) -> bytes:
    directory, _, name = path.rpartition("/")
    whole = path.encode()
    # A path that fits the name field is not split, as in tar(1).
    name_field, prefix = (whole, b"") if len(whole) <= 100 else (name.encode(), directory.encode())
    mode = 0o755 if executable else 0o644
    fields = [
        name_field.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"00000000000\0",
        b" " * 8,
        b"0",
        b"\0" * 100,
        b"ustar\x0000",
        b"\0" * 32,
        b"\0" * 32,
        b"0000000\0",
        b"0000000\0",
        prefix.ljust(155, b"\0"),
        b"\0" * 12,
    ]
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _stored_gzip(data: bytes) -> bytes:
    """A gzip member (RFC 1952) of stored blocks (RFC 1951, 3.2.4)."""
    parts = [_GZIP_HEADER]
    for start in range(0, len(data), _STORED):
        block = data[start : start + _STORED]
        last = start + _STORED >= len(data)
        parts.append(bytes([last]) + len(block).to_bytes(2, "little") + (len(block) ^ 0xFFFF).to_bytes(2, "little"))
        parts.append(block)
    parts.append(zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little"))
    return b"".join(parts)


def _gunzip(archive: bytes, limits: ArchiveLimits) -> bytes:
    reader = zlib.decompressobj(wbits=31)
    out = bytearray()
    allowed = min(limits.unpacked, max(_RATIO_FREE, len(archive) * limits.ratio))
    try:
        for start in range(0, len(archive), _CHUNK):
            pending = archive[start : start + _CHUNK]
            more = True
            while more:
                chunk = reader.decompress(pending, _CHUNK)
                pending = reader.unconsumed_tail
                more = len(chunk) == _CHUNK or bool(pending)
                out += chunk
                if len(out) > allowed:
                    raise _refusal(
                        f"it unpacks to more than {allowed} bytes",
                        "exclude files with .archelonignore, or use an image",
                    )
            if reader.eof:
                if reader.unused_data or start + _CHUNK < len(archive):
                    raise _refusal("something follows the gzip member", "pack the bundle again")
                return bytes(out)
    except zlib.error:
        raise _refusal("it is not a gzip file, or it is damaged", "pack the bundle again") from None
    raise _refusal("it ends too early", "send it again")


def _read_tar(data: bytes, limits: ArchiveLimits) -> dict[str, PackedFile]:
    files: dict[str, PackedFile] = {}
    directories: set[str] = set()
    at = 0
    while True:
        header = data[at : at + _BLOCK]
        if len(header) < _BLOCK:
            raise _refusal("it ends too early", "send it again")
        at += _BLOCK
        if not any(header):
            break
        path, size, kind, executable = _entry(header)
        if size > len(data) - at:
            raise _refusal(f"{_printable(path)} ends too early", "send it again")
        if len(files) + len(directories) >= limits.files:
            raise _refusal(f"more than {limits.files} files", "exclude some with .archelonignore")
        if kind == b"5":
            if size:
                raise _refusal(f"{_printable(path)} is a directory with content", "pack the bundle again")
            directories.add(path)
            continue
        if path in files:
            raise _refusal(f"{_printable(path)} is in it twice", "pack the bundle again")
        files[path] = PackedFile(data[at : at + size], executable)
        at += size + (-size % _BLOCK)
    if data[at:].strip(b"\0"):
        raise _refusal("something follows its end", "pack the bundle again")
    problems = list(path_problems(files))
    problems.extend(
        Problem(_printable(path), 0, 0, "", "a file and a directory", "pack the bundle again")
        for path in directories & files.keys()
    )
    if problems:
        raise DocumentError(problems)
    return files


def _entry(header: bytes) -> tuple[str, int, bytes, bool]:
    if header[257:262] != b"ustar":
        raise _refusal("it is not a ustar archive", "pack it with `archelon publish`, or tar --format=ustar")
    blanked = header[:148] + b" " * 8 + header[156:]
    if _octal(header[148:156]) != sum(blanked):
        raise _refusal("the checksum of a header is wrong", "send it again")
    name = _field(header[0:100])
    # GNU's own header has times in place of ustar's directory.
    prefix = _field(header[345:500]) if header[257:263] == b"ustar\0" else ""
    path = f"{prefix}/{name}" if prefix else name
    kind = header[156:157]
    if kind not in (b"0", b"\0", b"5"):
        raise _refusal(
            f"{_printable(path)} is neither a file nor a directory",
            "pack it with `archelon publish`, or tar --format=ustar",
        )
    if kind == b"5" or path.endswith("/"):
        kind = b"5"
        path = path.rstrip("/")
    path = path.removeprefix("./")
    fault = path_fault(path) if not (kind == b"5" and path in ("", ".")) else None
    if fault is not None:
        raise _refusal(f"{_printable(path)}: {fault}", "pack the bundle again")
    return path, _octal(header[124:136]), kind, bool(_octal(header[100:108]) & 0o100)


def _field(raw: bytes) -> str:
    try:
        return raw.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError:
        raise _refusal("a name in it is not UTF-8", "rename the file") from None


def _octal(raw: bytes) -> int:
    digits = raw.strip(b" \0")
    # int() would accept signs, underscores and bytes of the base-256 form.
    if digits and not digits.strip(b"01234567"):
        return int(digits, 8)
    if digits:
        raise _refusal("a number in a header is not octal", "pack it with `archelon publish`, or tar --format=ustar")
    return 0


def _printable(path: str) -> str:
    shown = path if len(path) <= 120 else path[:117] + "…"
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode("ascii")


def _refusal(message: str, remedy: str) -> DocumentError:
    return DocumentError([Problem(_NAME, 0, 0, "", message, remedy)])
