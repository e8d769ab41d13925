"""Directories and addresses of the test bed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

#: The directory with `up.sh`.
HERE = Path(__file__).resolve().parent.parent

HOST = "127.0.0.1"
REGION = "RegionOne"
#: Of all users: the test bed listens only on loopback and contains nothing of value.
PASSWORD = "secret"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The directories of one test bed.

    Args:
        cache: reproducible files: the virtual environment, snapshots. Several test beds may share it.
        state: databases, configuration and logs of this one.
    """

    cache: Path
    state: Path

    @classmethod
    def of_environment(cls) -> Layout:
        """Use ARCHELON_TESTBED_CACHE and ARCHELON_TESTBED_STATE, or directories below the user's home."""
        home = Path.home()
        cache = os.environ.get("ARCHELON_TESTBED_CACHE") or home / ".cache" / "archelon"
        state = os.environ.get("ARCHELON_TESTBED_STATE") or home / ".local" / "state" / "archelon"
        return cls(Path(cache).absolute() / "openstack", Path(state).absolute() / "openstack")

    @property
    def venv(self) -> Path:
        """OpenStack's virtual environment."""
        return self.cache / "venv"

    def program(self, name: str) -> str:
        """Return the path of a program in the virtual environment."""
        return str(self.venv / "bin" / name)

    def etc(self, name: str) -> Path:
        """Return the path of a configuration file."""
        return self.state / "etc" / name

    def log(self, name: str) -> Path:
        """Return the path of a log."""
        return self.state / "log" / f"{name}.log"

    def snapshot(self, groups: Collection[str]) -> Path:
        """Return the path of the snapshot of these groups for this version and state directory."""
        digest = hashlib.sha256(str(self.state).encode())
        for path in sorted(HERE.rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".md"):
                digest.update(path.read_bytes())
        return self.cache / f"snapshot-{'-'.join(sorted(groups))}-{digest.hexdigest()[:12]}.tar"

    def clouds(self) -> dict[str, dict[str, object]]:
        """Return the clouds of clouds.yaml by name: an ordinary tenant and the administrator."""
        found: dict[str, dict[str, object]] = {}
        for name, user in (("testbed", "demo"), ("testbed-admin", "admin")):
            auth = {
                "auth_url": f"http://{HOST}:5000/v3",
                "username": user,
                "password": PASSWORD,
                "project_name": user,
                "user_domain_id": "default",
                "project_domain_id": "default",
            }
            found[name] = {"auth": auth, "region_name": REGION, "identity_api_version": "3"}
        return found

    def values(self) -> dict[str, str]:
        """Return the values of `@NAME@` in the files of `etc/`."""
        return {
            "HOST": HOST,
            "REGION": REGION,
            "PASSWORD": PASSWORD,
            "STATE": str(self.state),
            "VENV": str(self.venv),
            "KEYSTONE": f"http://{HOST}:5000",
            "DATABASE": f"mysql+pymysql://testbed:{PASSWORD}@{HOST}:13306",
            "USER": _user(),
        }


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
