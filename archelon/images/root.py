"""Creates a root file system with this machine's Python: interpreter, standard library, libraries and their shared objects.

It contains no shell and no other program. Everything is owned by root and world-readable; the image's user can write only to
mounted volumes. Python is installed below /usr, independently of its prefix on this machine, because it locates itself.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import json
import py_compile
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from .content import USER, Content

_HERE: Final = Path(__file__).resolve().parents[2]
#: Parts of the standard library that no service imports.
_LEFT_OUT: Final = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "turtle.py",
    "pydoc_data", "config-*", "_test*.so", "_tkinter*.so", "*.opt-*.pyc", "*.a",
)  # fmt: skip
_OBJECT: Final = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$")


class RootError(Exception):
    """A root cannot be created from what is installed here. The message names the remedy."""


def make_root(target: Path, content: Content) -> None:
    """Populate an empty directory. Raises RootError if a library is not installed or a shared object not found."""
    for directory in ("dev", "etc", "proc", "srv", "sys", "tmp", "usr/bin", "usr/lib", "var/lib/archelon"):
        (target / directory).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (target / "usr" / name).mkdir(exist_ok=True)
        (target / name).symlink_to(f"usr/{name}")
    user, group = USER.split(":")
    (target / "etc/passwd").write_text(
        f"root:x:0:0:root:/:/sbin/nologin\narchelon:x:{user}:{group}:archelon:/srv:/sbin/nologin\n"
    )
    (target / "etc/group").write_text(f"root:x:0:\narchelon:x:{group}:\n")
    _add_certificates(target)
    packages = _add_python(target)
    _add_libraries(packages, content)
    for package in content.packages:
        shutil.copytree(
            _HERE / package,
            packages / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.db"),
            dirs_exist_ok=True,
        )
    _compile(target, packages)
    _add_shared_objects(target)
    _strip(target / "usr" / sys.platlibdir)


def _compile(target: Path, packages: Path) -> None:
    """Compile all packages, since a container would compile them at every start and cannot keep the result.

    Bytecode is validated by hash, not by time: image layers change modification times.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of third-party code
        compileall.compile_dir(
            packages,
            quiet=2,
            force=True,
            stripdir=str(target),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _add_certificates(target: Path) -> None:
    """Copy the machine's certificate authorities to OpenSSL's default path."""
    installed = Path("/etc/ssl/certs/ca-certificates.crt")
    place = target / ssl.get_default_verify_paths().openssl_cafile.lstrip("/")
    if installed.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(installed, place)


def _add_python(target: Path) -> Path:
    """Copy the interpreter with its standard library; returns the directory of site packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # In a virtual environment, `sys.executable` is a link.
    interpreter = Path(sys.executable).resolve()
    shutil.copy2(interpreter, target / "usr/bin" / version)
    (target / "usr/bin/python3").symlink_to(version)
    library = target / "usr" / sys.platlibdir / version
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_LEFT_OUT, symlinks=False)
    for compiled in library.rglob("*.pyc"):
        # Python gives bytecode the mode of whoever first imported it, which may have been private.
        compiled.chmod(0o644)
    script = "import json, site, sys; json.dump([sys.prefix, site.getsitepackages()], sys.stdout)"
    printed = subprocess.check_output([str(interpreter), "-I", "-c", script], timeout=60)  # noqa: S603 - our own interpreter
    prefix, directories = json.loads(printed)
    packages = target / "usr" / Path(directories[0]).relative_to(prefix)
    packages.mkdir(parents=True)
    return packages


def _add_libraries(packages: Path, content: Content) -> None:
    try:
        distributions = [importlib.metadata.distribution(name) for name in content.distributions()]
    except importlib.metadata.PackageNotFoundError as error:
        raise RootError(
            f"{error.name} is not installed; install it, for example with `pip install archelon[kubernetes]`"
        ) from error
    for distribution in distributions:
        _copy_distribution(distribution, packages)
    if content.extras:
        # Platforms are found by Archelon's entry points.
        own = importlib.metadata.distribution("archelon")
        place = packages / f"archelon-{own.version}.dist-info"
        place.mkdir()
        for name in ("METADATA", "entry_points.txt"):
            (place / name).write_text(own.read_text(name) or "", encoding="utf-8")


def _copy_distribution(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    name = distribution.metadata["Name"]
    if not distribution.files:
        raise RootError(f"the installation of {name} has no list of its files; install it with pip")
    for file in distribution.files:
        # Programs are outside of the packages' directory.
        if ".." in file.parts or file.parts[0] == "tests" or file.is_absolute():
            continue
        found = Path(str(file.locate()))
        if not found.is_file():
            continue
        place = packages / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(found, place)


def _add_shared_objects(target: Path, files: Iterable[Path] | None = None) -> None:
    """Copy the shared objects that the interpreter and extension modules are linked with to the loader's search path."""
    chosen = list(_linked(target) if files is None else files)
    ldd = shutil.which("ldd")
    if ldd is None:
        raise RootError("ldd is missing on this machine; install the C library's programs (Debian: libc-bin)")
    linked = subprocess.run(  # noqa: S603 - our own list
        [ldd, *map(str, chosen)], capture_output=True, text=True, check=False, timeout=120
    )
    needed: dict[str, Path] = {}
    for line in linked.stdout.splitlines():
        if "not found" in line:
            raise RootError(f"a shared object is missing on this machine: {line.strip()}")
        found = _OBJECT.match(line)
        # Shared objects of wheels are already in the root.
        if found and not Path(found[2]).resolve().is_relative_to(target.resolve()):
            needed[found[1] or found[2]] = Path(found[2])
    libc = next((path for name, path in needed.items() if name.startswith("libc.so")), None)
    if libc is None:
        raise RootError("the C library cannot be found with ldd; images are made on Linux with a dynamic Python")
    # The directories of the loader and the C library depend on the distribution.
    directory = target / "usr" / _below_usr(libc.parent)
    directory.mkdir(parents=True, exist_ok=True)
    for name, path in needed.items():
        place = target / "usr" / _below_usr(Path(name)) if name.startswith("/") else directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(path.resolve(), place)


def _strip(libraries: Path) -> None:
    """Strip debugging symbols of Python's own objects if `strip` is installed: 25 of 115 MB with pyenv.

    Objects of wheels are not stripped: those modified by other tools than the linker would break.
    """
    strip = shutil.which("strip")
    if strip is None:
        return
    own = [*libraries.glob("*/libpython*.so*"), *libraries.glob("python*/lib-dynload/*.so")]
    subprocess.run([strip, "--strip-debug", *map(str, own)], check=True, timeout=60)  # noqa: S603 - our own list


def _below_usr(path: Path) -> Path:
    """Return a path without its `/` or `/usr`: in the root, `/lib` is a link to `/usr/lib`."""
    parts = path.parts[1:]
    return Path(*parts[1:]) if parts and parts[0] == "usr" else Path(*parts)


def _linked(target: Path) -> Iterator[Path]:
    for path in sorted((target / "usr").rglob("*")):
        if path.is_file() and not path.is_symlink() and (".so" in path.suffixes or path.parent.name == "bin"):
            yield path
