"""Where the test bed lies and listens."""

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
#: Everybody's: the test bed listens on loopback alone and holds nothing of worth.
PASSWORD = "secret"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The directories of one test bed.

    Args:
        cache: what can be made again: the virtual environment, snapshots. Several test beds may share it.
        state: databases, configuration and logs of this one.
    """

    cache: Path
    state: Path

    @classmethod
    def of_environment(cls) -> Layout:
        """As ARCHELON_TESTBED_CACHE and ARCHELON_TESTBED_STATE say, or below the user's own directories."""
        home = Path.home()
        cache = os.environ.get("ARCHELON_TESTBED_CACHE") or home / ".cache" / "archelon"
        state = os.environ.get("ARCHELON_TESTBED_STATE") or home / ".local" / "state" / "archelon"
        return cls(Path(cache).absolute() / "openstack", Path(state).absolute() / "openstack")

    @property
    def venv(self) -> Path:
        """OpenStack's virtual environment."""
        return self.cache / "venv"

    def program(self, name: str) -> str:
        """A program of that environment."""
        return str(self.venv / "bin" / name)

    def etc(self, name: str) -> Path:
        """A configuration file."""
        return self.state / "etc" / name

    def log(self, name: str) -> Path:
        """A log."""
        return self.state / "log" / f"{name}.log"

    def snapshot(self, groups: Collection[str]) -> Path:
        """The clean state of these groups, as this version of the test bed makes it in this place."""
        digest = hashlib.sha256(str(self.state).encode())
        for path in sorted(HERE.rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".md"):
                digest.update(path.read_bytes())
        return self.cache / f"snapshot-{'-'.join(sorted(groups))}-{digest.hexdigest()[:12]}.tar"

    def clouds(self) -> dict[str, dict[str, object]]:
        """What clouds.yaml says, by the clouds' names: an ordinary tenant, and the administrator."""
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
        """What the files in `etc/` may name as `@NAME@`."""
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
