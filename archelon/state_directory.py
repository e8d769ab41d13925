"""The state directory of an all-in-one: keys, realm, tokens, ports, databases and logs.

    .archelon/
      dev.json               address and ports of the services
      tokens.json            a token for each role, for the command line
      realm.yaml             the local realm
      keys/                  signing and encryption keys of the services
      service-manager.yaml   settings of the service manager, rewritten at each start
      cloud-controller.yaml  settings of the cloud controller, likewise
      service-manager.db     its database
      cloud-controller.db    its database
      cloud/                 bundles and processes of the local region
      logs/                  a file for each process
      lock                   locked while an all-in-one runs

Secrets are readable by the owner only. Existing files are never replaced, so that issued tokens and keys stay valid.
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
#: The variable that names a state directory elsewhere.
VARIABLE: Final = "ARCHELON_STATE"
_TENANT: Final = "dev"
_ROLES: Final = ("tenant", "provider", "operator")
#: The first of consecutive ports that are all free.
_FIRST: Final = 8888
_ROWS: Final = 250


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Ports of the four processes. They do not change, because running orchestrators use them."""

    service_manager: int
    cloud_controller: int
    service_manager_worker: int
    cloud_controller_worker: int


class StateDirectory:
    """The state below one path.

    Args:
        path: the directory; `make` creates it.
        databases: database URLs by service; by default, a service's database is a file in the directory.
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
        """Whether an all-in-one has been started here."""
        return self._dev.exists()

    def make(self, *, host: str, first_port: int = _FIRST) -> None:
        """Create what is missing: directories, keys, realm, tokens, ports from `first_port` on.

        Raises CommandError if there are no free ports on that address.
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
        """Return the ports of the services. Raises CommandError."""
        return Ports(**self._read(self._dev)["ports"])

    def host(self) -> str:
        """Return the address that they listen on. Raises CommandError."""
        return str(self._read(self._dev)["host"])

    def move(self, host: str) -> None:
        """Change the address to listen on."""
        self._write(self._dev, {**self._read(self._dev), "host": host})

    def token(self, role: str) -> str:
        """Return the token of a role: `tenant`, `provider` or `operator`. Raises CommandError."""
        known: Mapping[str, str] = self._read(self._tokens)
        if role not in known:
            raise CommandError(
                f"there is no token for {role!r}; expected one of {', '.join(known)}", status=Status.USAGE
            )
        return known[role]

    def url(self, service: str = "service_manager") -> str:
        """Return the URL of the service manager or the cloud controller. Raises CommandError."""
        host = self.host()
        # A wildcard address cannot be called.
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # nosec  # noqa: S104
        return f"http://{host}:{getattr(self.ports(), service)}"

    def key(self, issuer: str, *, public: bool = False) -> Path:
        """File of a key that a service signs with, or of its public half."""
        return self.keys / f"{issuer}.{'pub' if public else 'pem'}"

    def database(self, service: str) -> str:
        """Return the URL of a service's database."""
        return self._databases.get(service) or f"sqlite:///{self.path.resolve()}/{service}.db"

    def log(self, process: str) -> Path:
        """Return the log file of a process."""
        return self.logs / f"{process}.log"

    def write_settings(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Write a service's settings file."""
        import bundles

        path = self.path / f"{name}.yaml"
        header = "# Rewritten by `archelon dev` at each start; changes are lost.\n"
        write_private(path, header + bundles.to_text([dict(settings)]))
        return path

    def further_regions(self) -> Mapping[str, Any]:
        """Return the regions in `regions.yaml`, as in the cloud controller's setting. Raises CommandError if it is invalid."""
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
            raise CommandError(f"{path} is not a map of regions, each with platform and settings", status=Status.USAGE)
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for one all-in-one. Raises CommandError if another one runs here."""
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
            from archelon_api import service_manager as wire

            # Users of other command lines expect `list --state` to be a filter.
            hint = "; to filter by state, use --in-state" if self.path.name in wire.STATES else ""
            raise CommandError(
                f"{self.path} is not a state directory; `archelon dev` creates one{hint}", status=Status.USAGE
            ) from None
        except ValueError:
            raise CommandError(f"{path} is not JSON; restore it, or remove {self.path} to start over") from None
        assert isinstance(found, dict)
        return found

    def _write(self, path: Path, value: Mapping[str, Any]) -> None:
        write_private(path, json.dumps(value, indent=2) + "\n")


def present(environ: Mapping[str, str], here: Path) -> StateDirectory | None:
    """Return the state directory that the variable names, else the one in this directory or above. Raises CommandError."""
    named = environ.get(VARIABLE)
    return StateDirectory(Path(named)) if named else find_upwards(here)


def find_upwards(start: Path, *, user_id: int | None = None) -> StateDirectory | None:
    """Return the state directory in this directory or the nearest one above it, as git finds its own.

    Raises CommandError if it does not belong to `user_id` (default the effective user) or its services are on another machine: an
    attacker could have placed it, for example in a repository, to obtain a token.
    """
    for directory in (start, *start.parents):
        state = StateDirectory(directory / NAME)
        if state.exists:
            if state.path.stat().st_uid != (os.geteuid() if user_id is None else user_id):
                raise CommandError(
                    f"{state.path} belongs to another user; name it with --state if you trust them",
                    status=Status.REFUSED,
                )
            if not _is_free(state.host(), 0):
                raise CommandError(
                    f"the services of {state.path} are at {state.host()[:100]!r}, which is not an address of this machine; "
                    "name it with --state if you trust its author",
                    status=Status.REFUSED,
                )
            return state
    return None


def _free_row(host: str, first: int, width: int) -> int:
    """Return the first of `width` consecutive free ports."""
    for start in range(first, first + _ROWS * width, width):
        if all(_is_free(host, port) for port in range(start, start + width)):
            return start
    raise CommandError(
        f"there are no free ports on {host} from {first} on; is it an address of this machine?", status=Status.USAGE
    )


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
