"""Installs the test bed's software: Debian packages, and Python packages with pinned versions."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from .layout import HERE, Layout
from .parts import CLOUD, CORE, DNS

#: Debian packages by program. None of these packages starts a service or asks a question.
_DEBIAN = {
    CORE: {"mariadbd": "mariadb-server-core", "my_print_defaults": "mariadb-client-core"},
    DNS: {"named": "bind9", "rndc-confgen": "bind9"},
}
_PYTHON = {
    CORE: ("keystone", "openstack-heat", "python-openstackclient", "python-heatclient", "PyMySQL", "gunicorn"),
    CLOUD: ("neutron", "glance", "openstack-placement", "nova", "cinder"),
    DNS: ("designate", "python-designateclient"),
}


class SoftwareError(Exception):
    """Software cannot be installed; the message names it and the cause."""


def find_program(name: str) -> str | None:
    """Return the path of a program, also in /usr/sbin, which is not in the PATH of ordinary users."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def install(layout: Layout, groups: Collection[str], report: Callable[[str], None]) -> None:
    """Install missing software; a lock serializes concurrent calls. Raises SoftwareError."""
    layout.cache.mkdir(parents=True, exist_ok=True)
    with (layout.cache / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_debian(layout, groups, report)
        _install_python(layout, groups, report)


def _install_debian(layout: Layout, groups: Collection[str], report: Callable[[str], None]) -> None:
    needed = {program: package for group in groups for program, package in _DEBIAN.get(group, {}).items()}
    missing = sorted({package for program, package in needed.items() if find_program(program) is None})
    if not missing:
        return
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        raise SoftwareError(
            f"install the Debian packages {' '.join(missing)}: as root on Debian, they are installed automatically"
        )
    _run(layout, "apt-get", "update", "-qq")
    _run(layout, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    report(f"Debian packages: {' '.join(missing)}")


def _install_python(layout: Layout, groups: Collection[str], report: Callable[[str], None]) -> None:
    constraints = HERE / "constraints.txt"
    digest = hashlib.sha256(constraints.read_bytes()).hexdigest()[:12]
    wanted = [group for group in _PYTHON if group in groups]
    stamps = {group: layout.venv / f".{group}-{digest}" for group in wanted}
    if all(stamp.exists() for stamp in stamps.values()):
        return
    uv = _uv(layout)
    if not Path(layout.program("python")).exists():
        _run(layout, uv, "venv", "--quiet", "--python", _python(), str(layout.venv))
    packages = [package for group in wanted for package in _PYTHON[group]]
    _run(layout, uv, "pip", "install", "-q", "-p", layout.program("python"), "-c", str(constraints), *packages)
    for stamp in stamps.values():
        stamp.touch()
    report(f"virtual environment: {', '.join(wanted)}")


def _python() -> str:
    # The versions in constraints.txt support at most 3.12, and were tested with 3.11.
    for name in ("python3.11", "python3.12"):
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
            return found
    raise SoftwareError(f"OpenStack 2025.1 needs Python 3.11 or 3.12; this is {sys.version.split()[0]}")


def _uv(layout: Layout) -> str:
    """Return the path of uv, ten times faster than pip for hundreds of packages; install it with pip if missing."""
    found = shutil.which("uv")
    if found:
        return found
    tools = layout.cache / "tools"
    if not (tools / "bin" / "uv").exists():
        _run(layout, _python(), "-m", "venv", str(tools))
        _run(layout, str(tools / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "uv")
    return str(tools / "bin" / "uv")


def _run(layout: Layout, *command: str) -> None:
    # The installers' caches are in the test bed's cache.
    places = {"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip", "TMPDIR": "tmp"}
    (layout.cache / "tmp").mkdir(exist_ok=True)
    own = {name: str(layout.cache / place) for name, place in places.items()}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **own},
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        # Terminate its children too, and wait: it may be dpkg.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.returncode:
        tail = "\n".join(output.strip().splitlines()[-10:])
        raise SoftwareError(f"{' '.join(command[:4])} … exited with {process.returncode}:\n{tail}")
