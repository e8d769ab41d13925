"""Installs what the test bed needs: Debian packages by name, Python packages by name and version."""

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

#: Programs, and the Debian package that has them. None of these packages starts a service or asks a question.
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
    """Something cannot be installed; the text says what and why."""


def find_program(name: str) -> str | None:
    """Where a program is, /usr/sbin included, which an ordinary user's PATH lacks."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def install(layout: Layout, groups: Collection[str], say: Callable[[str], None]) -> None:
    """Install what is lacking. Several test beds may do so at once: one after the other.

    Raises:
        SoftwareError: it cannot be installed.
    """
    layout.cache.mkdir(parents=True, exist_ok=True)
    with (layout.cache / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_debian(layout, groups, say)
        _install_python(layout, groups, say)


def _install_debian(layout: Layout, groups: Collection[str], say: Callable[[str], None]) -> None:
    needed = {program: package for group in groups for program, package in _DEBIAN.get(group, {}).items()}
    lacking = sorted({package for program, package in needed.items() if find_program(program) is None})
    if not lacking:
        return
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        raise SoftwareError(f"install the Debian packages {' '.join(lacking)}: as root on Debian this is done for you")
    _run(layout, "apt-get", "update", "-qq")
    _run(layout, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking)
    say(f"Debian packages: {' '.join(lacking)}")


def _install_python(layout: Layout, groups: Collection[str], say: Callable[[str], None]) -> None:
    constraints = HERE / "constraints.txt"
    digest = hashlib.sha256(constraints.read_bytes()).hexdigest()[:12]
    wanted = [group for group in _PYTHON if group in groups]
    marks = {group: layout.venv / f".{group}-{digest}" for group in wanted}
    if all(mark.exists() for mark in marks.values()):
        return
    uv = _uv(layout)
    if not Path(layout.program("python")).exists():
        _run(layout, uv, "venv", "--quiet", "--python", _python(), str(layout.venv))
    packages = [package for group in wanted for package in _PYTHON[group]]
    _run(layout, uv, "pip", "install", "-q", "-p", layout.program("python"), "-c", str(constraints), *packages)
    for mark in marks.values():
        mark.touch()
    say(f"virtual environment: {', '.join(wanted)}")


def _python() -> str:
    # The versions in constraints.txt are of a time that knew 3.12 at most, and were tried with 3.11.
    for name in ("python3.11", "python3.12"):
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
            return found
    raise SoftwareError(f"OpenStack 2025.1 needs Python 3.11 or 3.12; this is {sys.version.split()[0]}")


def _uv(layout: Layout) -> str:
    """Uv installs the hundreds of packages in a tenth of pip's time; it comes by pip itself."""
    found = shutil.which("uv")
    if found:
        return found
    tools = layout.cache / "tools"
    if not (tools / "bin" / "uv").exists():
        _run(layout, _python(), "-m", "venv", str(tools))
        _run(layout, str(tools / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "uv")
    return str(tools / "bin" / "uv")


def _run(layout: Layout, *command: str) -> None:
    # What the installers keep lies in the cache of the test bed.
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
        said, _ = process.communicate()
    except BaseException:
        # With all that it started, and given the time to end well: it may be dpkg.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.returncode:
        tail = "\n".join(said.strip().splitlines()[-10:])
        raise SoftwareError(f"{' '.join(command[:4])} … ended with {process.returncode}:\n{tail}")
