"""The directory of one all-in-one: its keys, realm, tokens, ports, databases and logs, made once and found again.

    .archelon/
      dev.json               where the services listen
      tokens.json            a token for each role, for the command line
      realm.yaml             the local realm
      keys/                  what the services sign and encrypt with
      service-manager.yaml   settings of the service manager, written anew at each start
      cloud-controller.yaml  settings of the cloud controller, likewise
      service-manager.db     its database
      cloud-controller.db    its database
      cloud/                 bundles and processes of the local region
      logs/                  a file for each process
      lock                   held while an all-in-one runs

Everything that is secret is readable by its owner alone. What exists is never made again, so that tokens and keys that were given
out stay true.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .errors import CommandError, Status
from .keys import ISSUERS, make_signing_key, write_private

NAME: Final = ".archelon"
_TENANT: Final = "dev"
_ROLES: Final = ("tenant", "provider", "operator")
#: Ports are taken four in a row, from the first row of which all four are free.
_FIRST: Final = 8888
_ROWS: Final = 250


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Where the four processes listen. They stay, since orchestrators that run know them."""

    service_manager: int
    cloud_controller: int
    service_manager_worker: int
    cloud_controller_worker: int


class StateDirectory:
    """The state below one path.

    Args:
        path: the directory; made by `make`.
        databases: URLs by service, where its database is not to be a file in the directory.
    """

    def __init__(self, path: Path, *, databases: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._databases = databases or {}
        self.keys = path / "keys"
        self.logs = path / "logs"
        self.cloud = path / "cloud"
        self.realm = path / "realm.yaml"
        self._dev = path / "dev.json"
        self._tokens = path / "tokens.json"

    @property
    def exists(self) -> bool:
        """Whether an all-in-one was started here once."""
        return self._dev.exists()

    def make(self, *, host: str, first_port: int = _FIRST) -> None:
        """Make what is not there yet: directories, keys, realm, tokens, ports.

        Args:
            first_port: where to begin to look for free ports.

        Raises:
            CommandError: no ports can be had on that address.
        """
        for directory in (self.path, self.keys, self.logs, self.cloud):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        for issuer in ISSUERS:
            make_signing_key(self.key(issuer), self.key(issuer, public=True))
        from archelon_core.encryption import keys_from_file

        keys_from_file(self.keys / "encryption.keys")
        self._make_realm()
        if not self._dev.exists():
            names = [field.name for field in dataclasses.fields(Ports)]
            first = _free_row(host, first_port, len(names))
            self._write(self._dev, {"host": host, "ports": dict(zip(names, range(first, first + 9), strict=False))})

    def ports(self) -> Ports:
        """Where the services listen. Raises CommandError."""
        return Ports(**self._read(self._dev)["ports"])

    def host(self) -> str:
        """The address that they listen on. Raises CommandError."""
        return str(self._read(self._dev)["host"])

    def move(self, host: str) -> None:
        """Listen on another address from now on."""
        self._write(self._dev, {**self._read(self._dev), "host": host})

    def token(self, role: str) -> str:
        """The token for a role: `tenant`, `provider` or `operator`. Raises CommandError."""
        known: Mapping[str, str] = self._read(self._tokens)
        if role not in known:
            raise CommandError(f"there is no token for {role!r}; there are {', '.join(known)}", status=Status.USAGE)
        return known[role]

    def url(self, service: str = "service_manager") -> str:
        """URL of the service manager, or of the cloud controller. Raises CommandError."""
        # A wildcard address is one to listen on, not one to call.
        host = self.host()
        reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # nosec  # noqa: S104
        shown = f"[{reached}]" if ":" in reached else reached
        return f"http://{shown}:{getattr(self.ports(), service)}"

    def key(self, issuer: str, *, public: bool = False) -> Path:
        """File of a key that a service signs with, or of its public half."""
        return self.keys / f"{issuer}.{'pub' if public else 'pem'}"

    def database(self, service: str) -> str:
        """URL of a service's database."""
        return self._databases.get(service) or f"sqlite:///{self.path.resolve()}/{service}.db"

    def log(self, process: str) -> Path:
        """File that a process writes its log lines to."""
        return self.logs / f"{process}.log"

    def write_settings(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Write a service's settings to its file."""
        import bundles

        path = self.path / f"{name}.yaml"
        header = "# Written by `archelon dev` at each start; changes do not last.\n"
        write_private(path, header + bundles.to_text([dict(settings)]))
        return path

    def further_regions(self) -> Mapping[str, Any]:
        """The regions that a person has added in `regions.yaml`, as the cloud controller's setting `regions` has them.

        Raises:
            CommandError: it is no map of regions.
        """
        from archelon_core.documents.problems import DocumentError
        from archelon_core.documents.reading import only_document, read_file
        from archelon_core.documents.tree import plain

        path = self.path / "regions.yaml"
        if not path.exists():
            return {}
        try:
            found = plain(only_document(read_file(path, name=str(path)), str(path)))
        except DocumentError as error:
            raise CommandError(str(error), status=Status.USAGE) from None
        if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
            raise CommandError(f"{path} is no map of regions, each with platform and settings", status=Status.USAGE)
        return found

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Only one all-in-one at a time. Raises CommandError if another runs here."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                raise CommandError(
                    f"{self.path} is in use by process {holder or 'unknown'}; stop it, or give another --state",
                    status=Status.CONFLICT,
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _make_realm(self) -> None:
        from archelon_core.auth import RealmFile

        realm = RealmFile(self.realm, time.time)
        present = realm.read() if self.realm.exists() else None
        if present is None or _TENANT not in present.tenants:
            realm.add_tenant(_TENANT)
        known = present.users if present is not None else {}
        for role in _ROLES:
            if role not in known:
                realm.add_user(role, tenant=_TENANT, roles=[role])
        if not self._tokens.exists():
            issued = {role: realm.issue_token(role, tenant=_TENANT, lifetime=None).secret for role in _ROLES}
            self._write(self._tokens, issued)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CommandError(
                f"{self.path} is no state directory; `archelon dev` makes one", status=Status.USAGE
            ) from None
        except ValueError:
            raise CommandError(f"{path} is not JSON; restore it, or remove {self.path} to begin anew") from None
        assert isinstance(found, dict)
        return found

    def _write(self, path: Path, value: Mapping[str, Any]) -> None:
        write_private(path, json.dumps(value, indent=2) + "\n")


def found_upwards(start: Path, *, me: int | None = None) -> StateDirectory | None:
    """The state directory in this directory or the nearest one above it, as git finds its own.

    Args:
        me: the user who looks; who runs this without it.

    Raises:
        CommandError: it is another user's, or says that its services are on another machine: somebody could have put it there,
            into a repository for example, to be sent a token.
    """
    for directory in (start, *start.parents):
        state = StateDirectory(directory / NAME)
        if state.exists:
            if state.path.stat().st_uid != (os.geteuid() if me is None else me):
                raise CommandError(
                    f"{state.path} belongs to another user; name it with --state if you trust them",
                    status=Status.REFUSED,
                )
            if not _is_free(state.host(), 0):
                raise CommandError(
                    f"{state.path} says that its services are at {state.host()[:100]!r}, which is no address of this machine; "
                    "name it with --state if you trust who wrote it",
                    status=Status.REFUSED,
                )
            return state
    return None


def _free_row(host: str, first: int, width: int) -> int:
    """The first of `width` free ports in a row."""
    for start in range(first, first + _ROWS * width, width):
        if all(_is_free(host, port) for port in range(start, start + width)):
            return start
    raise CommandError(
        f"no ports can be had on {host} from {first} on; is it an address of this machine?", status=Status.USAGE
    )


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
