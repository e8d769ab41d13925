"""Archives: reproducible bytes, round trips, and hostile archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import (
    ArchiveLimits,
    BundleError,
    PackedFile,
    digest_of,
    pack_files,
    read_archive,
    sweep_unfinished,
    unpack,
)
from bundles.archive_paths import collision_key, path_fault

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\:"), min_size=1, max_size=12
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda path: path_fault(path) is None)
contents = st.builds(PackedFile, st.binary(max_size=2000), st.booleans())


def compatible(files: dict[str, PackedFile]) -> dict[str, PackedFile]:
    """Without paths that some system does not distinguish, or takes for another's directory."""
    kept: dict[str, PackedFile] = {}
    taken: set[str] = set()
    parents: set[str] = set()
    for path, file in files.items():
        key = collision_key(path)
        above = {collision_key(path[:end]) for end in range(len(path)) if path[end] == "/"}
        if key in taken or key in parents or above & taken:
            continue
        kept[path] = file
        taken.add(key)
        parents |= above
    return kept


trees = st.dictionaries(paths, contents, max_size=6).map(compatible)


def tree(directory: Path) -> dict[str, PackedFile]:
    found = {}
    for place in directory.rglob("*"):
        if place.is_file():
            executable = bool(place.stat().st_mode & 0o100)
            found[place.relative_to(directory).as_posix()] = PackedFile(place.read_bytes(), executable)
    return found


def tar(*members: tuple[tarfile.TarInfo, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tar_format) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def member(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def refused(archive: bytes, **options: object) -> str:
    with pytest.raises(BundleError) as error:
        read_archive(archive, **options)  # type: ignore[arg-type]
    return str(error.value)


@given(trees)
def test_files_round_trip(files: dict[str, PackedFile]) -> None:
    archive = pack_files(files)
    assert read_archive(archive, digest=digest_of(archive)) == files


@given(trees)
def test_other_programs_read_the_archive(files: dict[str, PackedFile]) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack_files(files)), mode="r:gz") as archive:
        found = {}
        for info in archive.getmembers():
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
            stream = archive.extractfile(info)
            assert stream is not None
            found[info.name] = PackedFile(stream.read(), info.mode == 0o755)
        assert archive.getnames() == sorted(files)
    assert found == files


@given(trees, st.randoms(use_true_random=False))
def test_order_does_not_matter(files: dict[str, PackedFile], random: object) -> None:
    order = list(files)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert pack_files({path: files[path] for path in order}) == pack_files(files)


@settings(max_examples=25)
@given(trees)
def test_unpacked_trees_are_equal(tmp_path_factory: pytest.TempPathFactory, files: dict[str, PackedFile]) -> None:
    store = tmp_path_factory.mktemp("store")
    archive = pack_files(files)
    place = unpack(archive, store / digest_of(archive), digest=digest_of(archive))
    assert tree(place) == files
    assert [made.name for made in store.iterdir()] == [digest_of(archive)]


def test_the_bytes_of_an_archive_are_stable() -> None:
    """Digests name bundles in databases: these bytes must stay reproducible with any zlib."""
    files = {
        "manifest.yaml": PackedFile(b"service_type: http://a/b#c\n"),
        "run.sh": PackedFile(b"#!/bin/sh\n", executable=True),
    }
    assert digest_of(pack_files(files)) == "7897901fafa68cfadef0d242d123c278bd0ec19cc5b40264cafacdc41ecf49f6"
    big = pack_files({"big": PackedFile(bytes(range(256)) * 1024)})
    assert gzip.decompress(big)[512 : 512 + 256] == bytes(range(256))
    assert hashlib.sha256(big).hexdigest() == digest_of(big)


def test_tar_reads_it_and_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("A")
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "sub" / ("b" * 99)).write_text("B")
    made = tmp_path / "made.tar.gz"
    subprocess.run(["tar", "--format=ustar", "-czf", made, "-C", tmp_path / "in", "."], check=True)
    files = read_archive(made.read_bytes())
    assert files == {"a": PackedFile(b"A"), "sub/" + "b" * 99: PackedFile(b"B")}
    ours = tmp_path / "ours.tar.gz"
    ours.write_bytes(pack_files(files))
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", ours, "-C", tmp_path / "out"], check=True)
    assert tree(tmp_path / "out") == files


GOOD = pack_files({"a": PackedFile(b"content"), "b/c": PackedFile(b"")})
TAR = gzip.decompress(GOOD)


def regzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def header_with(offset: int, raw: bytes) -> bytes:
    """The valid archive with a field of its first header replaced, and the checksum corrected."""
    header = bytearray(TAR[:512])
    header[offset : offset + len(raw)] = raw
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return regzip(bytes(header) + TAR[512:])


HOSTILE = {
    "absolute": (tar(member("/etc/passwd")), "the path is absolute"),
    "parent": (tar(member("../x")), "an empty part, . or .."),
    "parent inside": (tar(member("a/../../x")), "an empty part, . or .."),
    "parent in a directory": (tar(member("../d", b"", type=tarfile.DIRTYPE)), "an empty part, . or .."),
    "dot": (tar(member("a/./x")), "an empty part, . or .."),
    "doubled slash": (tar(member("a//x")), "an empty part, . or .."),
    "backslash": (tar(member("..\\x")), "a backslash or a drive"),
    "drive": (tar(member("C:x")), "a backslash or a drive"),
    "control character": (tar(member("a\x1b[2Jb")), "a control character"),
    "line break": (tar(member("a\nb")), "a control character"),
    "symbolic link": (tar(member("a", b"", type=tarfile.SYMTYPE, linkname="/etc")), "neither a file nor a directory"),
    "hard link": (
        tar(member("a", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
        "neither a file nor a directory",
    ),
    "link out, then a file through it": (
        tar(member("a", b"", type=tarfile.SYMTYPE, linkname="/tmp"), member("a/x")),
        "neither a file nor a directory",
    ),
    "character device": (tar(member("a", b"", type=tarfile.CHRTYPE)), "neither a file nor a directory"),
    "block device": (tar(member("a", b"", type=tarfile.BLKTYPE)), "neither a file nor a directory"),
    "pipe": (tar(member("a", b"", type=tarfile.FIFOTYPE)), "neither a file nor a directory"),
    "sparse": (tar(member("a", b"", type=tarfile.GNUTYPE_SPARSE)), "neither a file nor a directory"),
    "extended header": (tar(member("é" * 200), tar_format=tarfile.PAX_FORMAT), "neither a file nor a directory"),
    "global extended header": (header_with(156, b"g"), "neither a file nor a directory"),
    "long name of GNU": (tar(member("a" * 200), tar_format=tarfile.GNU_FORMAT), "neither a file nor a directory"),
    "twice": (tar(member("a"), member("a")), "a is in it twice"),
    "twice by a dot": (tar(member("a"), member("./a")), "a is in it twice"),
    "twice by case": (tar(member("a"), member("A")), "the same name as A on some systems"),
    "twice by composition": (tar(member("\u00e9"), member("e\u0301")), "the same name as"),
    "file as a directory": (tar(member("a"), member("a/b")), "its directory has the same name as a on some systems"),
    "file and directory": (tar(member("a"), member("a", b"", type=tarfile.DIRTYPE)), "a file and a directory"),
    "deep": (tar(member("/".join("a" * 30))), "deeper than 20 directories"),
    "not UTF-8": (header_with(0, b"\xff"), "not UTF-8"),
    "checksum": (regzip(b"b" + TAR[1:]), "the checksum of a header is wrong"),
    "negative size": (header_with(124, b"\xff" * 12), "a number in a header is not octal"),
    "base-256 size": (header_with(124, b"\x80" + b"\0" * 10 + b"\x01"), "a number in a header is not octal"),
    "signed size": (header_with(124, b"-0000000007\0"), "a number in a header is not octal"),
    "size beyond the end": (header_with(124, b"77777777777\0"), "a ends too early"),
    "directory with content": (header_with(156, b"5"), "a directory with content"),
    "old tar": (header_with(257, b"\0" * 8), "it is not a ustar archive"),
    "no end": (regzip(TAR[:1024]), "it ends too early"),
    "cut header": (regzip(TAR[:700]), "it ends too early"),
    "something after the end": (regzip(TAR + b"x"), "something follows its end"),
    "empty": (b"", "it ends too early"),
    "empty gzip": (regzip(b""), "it ends too early"),
    "no gzip": (TAR, "it is not a gzip file"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "it is not a gzip file"),
    "cut gzip": (GOOD[:-5], "it ends too early"),
    "wrong checksum of gzip": (GOOD[:-8] + b"\0" * 8, "it is damaged"),
    "two gzip members": (GOOD + GOOD, "something follows the gzip member"),
    "rubbish after gzip": (GOOD + b"x", "something follows the gzip member"),
    "bomb": (regzip(b"\0" * 200_000_000), "it unpacks to more than"),
    "many files": (tar(*(member(str(number), b"") for number in range(2001))), "more than 2000 files"),
    "many directories": (
        tar(*(member(f"d{number}", b"", type=tarfile.DIRTYPE) for number in range(2001))),
        "more than 2000",
    ),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(name: str, tmp_path: Path) -> None:
    archive, expected = HOSTILE[name]
    message = refused(archive)
    assert expected in message
    assert message.isprintable() or "\n" in message
    assert "\x1b" not in message
    assert "; " in message
    with pytest.raises(BundleError):
        unpack(archive, tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, len(TAR) - 1), st.binary(min_size=1, max_size=8))
def test_damage_is_refused_or_harmless(offset: int, raw: bytes) -> None:
    damaged = TAR[:offset] + raw + TAR[offset + len(raw) :]
    try:
        files = read_archive(regzip(damaged))
    except BundleError:
        return
    assert all(path_fault(path) is None for path in files)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(BundleError):
        read_archive(raw)
    with pytest.raises(BundleError):
        read_archive(regzip(raw + b"x"))


def test_limits() -> None:
    assert "more than 10 bytes packed" in refused(GOOD, limits=ArchiveLimits(packed=10))
    assert "it unpacks to more than 1000 bytes" in refused(GOOD, limits=ArchiveLimits(unpacked=1000))
    assert "more than 1 files" in refused(GOOD, limits=ArchiveLimits(files=1))
    compressed = regzip(gzip.decompress(pack_files({"a": PackedFile(b"a" * 2_000_000)})))
    assert "it unpacks to more than 1048576 bytes" in refused(compressed, limits=ArchiveLimits(ratio=2))
    assert read_archive(compressed, limits=ArchiveLimits(ratio=2000))["a"].content == b"a" * 2_000_000
    for limits in (ArchiveLimits(packed=10), ArchiveLimits(unpacked=10), ArchiveLimits(files=0)):
        with pytest.raises(BundleError, match="exclude"):
            pack_files({"a": PackedFile(b"x")}, limits=limits)


@pytest.mark.parametrize("path", ["/a", "../a", "a/", "", "a\\b", "a\x00b", "a" * 101, "d" * 160 + "/a", "a\ud800"])
def test_paths_that_cannot_be_packed(path: str) -> None:
    with pytest.raises(BundleError, match="rename it"):
        pack_files({path: PackedFile(b"")})


def test_the_digest_is_verified(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"its digest is not the one it was sent under; send it again"):
        unpack(GOOD, tmp_path / "x", digest="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_unpacking_gives_one_complete_directory(tmp_path: Path) -> None:
    archive = pack_files({f"d/{number}": PackedFile(b"x" * 1000) for number in range(50)})
    start = threading.Barrier(4)
    seen: list[int] = []

    def work() -> None:
        start.wait()
        seen.append(len(tree(unpack(archive, tmp_path / "bundle"))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [50] * 4
    assert [place.name for place in tmp_path.iterdir()] == ["bundle"]
    assert unpack(b"not even read", tmp_path / "bundle") == tmp_path / "bundle"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    archive = pack_files({"a": PackedFile(b"a"), "b": PackedFile(b"x" * 10_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            unpack(archive, tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bundle").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        unpack(archive, tmp_path / "bundle")
    assert [place.name for place in tmp_path.iterdir()] == ["bundle"]


def test_workspaces_of_killed_processes_are_swept(tmp_path: Path) -> None:
    # The kernel kills a process that writes above this limit.
    script = (
        "import pathlib, resource, signal, sys, bundles\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))\n"
        "bundles.unpack(sys.stdin.buffer.read(), pathlib.Path(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "bundle"], input=GOOD, check=False)
    assert killed.returncode == -signal.SIGXFSZ
    (left,) = tmp_path.iterdir()
    started = left.stat().st_mtime
    assert sweep_unfinished(tmp_path, before=started) == 0
    unpack(GOOD, tmp_path / "bundle")
    assert sweep_unfinished(tmp_path, before=started + 1) == 1
    assert [place.name for place in tmp_path.iterdir()] == ["bundle"]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    archive = pack_files({"a": PackedFile(b""), "d/run": PackedFile(b"", executable=True)})
    before = os.umask(0o077)
    try:
        place = unpack(archive, tmp_path / "bundle")
    finally:
        os.umask(before)
    modes = {item.name: oct(item.stat().st_mode & 0o777) for item in [place, *place.rglob("*")]}
    assert modes == {"bundle": "0o755", "a": "0o644", "d": "0o755", "run": "0o755"}


def test_stored_blocks_are_what_zlib_reads() -> None:
    for size in (0, 1, 65_535 - 2048, 65_536, 200_000):
        archive = pack_files({"a": PackedFile(os.urandom(size))})
        assert len(zlib.decompress(archive, wbits=31)) % 512 == 0
