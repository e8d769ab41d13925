"""A real OpenStack for tests: the cloud that OS_CLOUD names, or the project's own test bed, started once for all tests.

Fixtures select the services: `openstack` is Keystone and Heat, `openstack_cloud` adds servers, networks and volumes,
`openstack_dns` Designate, `short_lived` a Keystone endpoint whose tokens expire after seconds. Everything that the selected
tests need is started when the first of them runs. A test bed that is already running is used as it is, and left running.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3

from tests.beds import coming_up

_UP = Path(__file__).resolve().parent.parent / "deploy" / "testbeds" / "openstack" / "up.sh"
#: The test bed's option for each fixture.
_FLAGS = {"openstack_cloud": "--cloud", "openstack_dns": "--dns", "short_lived": "--short-lived"}
#: The other Keystone of the test bed.
SHORT_LIVED_URL = "http://127.0.0.1:5001/v3"


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A cloud as one user sees it, from clouds.yaml.

    Attributes:
        auth: `auth_url`, `username`, `password`, `project_name`, `user_domain_id`, `project_domain_id`.
    """

    auth: Mapping[str, str]
    region: str

    @property
    def auth_url(self) -> str:
        """Keystone's URL, with its version."""
        return self.auth["auth_url"]

    def plugin(self, **changed: Any) -> v3.Password:
        """Return an authentication plugin, with some of `auth` replaced."""
        return v3.Password(**{**self.auth, **changed})

    @functools.cached_property
    def session(self) -> keystone_session.Session:
        """A session of this user."""
        return keystone_session.Session(self.plugin(), timeout=30)

    def token(self, **changed: Any) -> str:
        """Return a fresh token."""
        return str(self.plugin(**changed).get_access(keystone_session.Session(timeout=30)).auth_token)

    @functools.cached_property
    def project_id(self) -> str:
        """Id of its project."""
        return str(self.session.get_project_id())

    @functools.cached_property
    def user_id(self) -> str:
        """Id of its user."""
        return str(self.session.get_user_id())

    def keystone(self, method: str, path: str, document: Any = None, *, ok: tuple[int, ...] = ()) -> Any:
        """Call Keystone, and return the response's document, if any."""
        answer = self.session.request(
            self.auth_url + path, method, json=document, raise_exc=False, headers={"Accept": "application/json"}
        )
        if answer.status_code >= 400 and answer.status_code not in ok:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None


class TestBed:
    """The project's own OpenStack on this machine."""

    #: Not a class of tests.
    __test__ = False

    def __init__(self, flags: tuple[str, ...]) -> None:
        self._flags = flags

    def up(self, *flags: str) -> None:
        """Start the services that are not running."""
        with coming_up("openstack", RuntimeError):
            self._run("up", *self._flags, *flags)

    def down(self) -> None:
        """Stop the test bed."""
        self._run("down")

    def kill(self, service: str) -> None:
        """Kill one service, as a crash does; `up` restarts it."""
        self._run("kill", service)

    def running(self) -> bool:
        """Return whether it is running."""
        return self._run("status", check=False).returncode == 0

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "testbed", *arguments],
            env={**os.environ, "PYTHONPATH": str(_UP.parent)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1100,
        )
        if check and done.returncode:
            raise RuntimeError(f"the OpenStack test bed: {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done

    def clouds(self) -> Mapping[str, Any]:
        """Return the content of its clouds.yaml."""
        return dict(json.loads(self._run("clouds").stdout))


@dataclasses.dataclass(frozen=True)
class OpenStack:
    """The cloud that tests use.

    Attributes:
        tenant: an ordinary user in a project of its own. admin: Keystone's administrator.
        bed: the test bed, whose services may be killed; None for an existing cloud.
    """

    tenant: Cloud
    admin: Cloud
    bed: TestBed | None

    @property
    def auth_url(self) -> str:
        """Keystone's URL, with its version."""
        return self.tenant.auth_url

    @property
    def keystone_url(self) -> str:
        """Keystone's URL, without its version."""
        return re.sub(r"/v3/?$", "", self.auth_url)

    @property
    def region(self) -> str:
        """The region that both use."""
        return self.tenant.region


def can_be_brought_up() -> bool:
    """Return whether this machine has, or can install, the test bed's requirements."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    installed = shutil.which("mariadbd", path=path) is not None
    return installed or (os.getuid() == 0 and shutil.which("apt-get") is not None)


def given_cloud() -> OpenStack | None:
    """Return the cloud that the environment names, with the administrator's entry `<OS_CLOUD>-admin`."""
    name = os.environ.get("OS_CLOUD")
    if not name and not os.environ.get("OS_AUTH_URL"):
        return None
    from openstack import config

    clouds = config.OpenStackConfig()
    tenant = clouds.get_one(cloud=name) if name else clouds.get_one()
    admin = clouds.get_one(cloud=os.environ.get("OS_ADMIN_CLOUD") or f"{name}-admin")
    return OpenStack(_cloud(tenant.config), _cloud(admin.config), None)


def of_bed(bed: TestBed) -> OpenStack:
    """Return the cloud of a running test bed."""
    clouds = bed.clouds()
    return OpenStack(_cloud(clouds["testbed"]), _cloud(clouds["testbed-admin"]), bed)


def _cloud(entry: Mapping[str, Any]) -> Cloud:
    auth = {name: str(value) for name, value in entry["auth"].items() if value is not None}
    if not re.search(r"/v3/?$", auth["auth_url"]):
        auth["auth_url"] = auth["auth_url"].rstrip("/") + "/v3"
    return Cloud(auth, str(entry.get("region_name") or "RegionOne"))


def bring_up(request: pytest.FixtureRequest) -> Iterator[OpenStack]:
    """Start and stop the session's cloud; the body of the fixture `openstack`."""
    from tests.conftest import missing

    given = given_cloud()
    if given is not None:
        yield given
        return
    if not can_be_brought_up():
        missing("OpenStack", command="make test-all as root on Debian, or with OS_CLOUD=…")
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    bed = TestBed(tuple(flag for name, flag in _FLAGS.items() if name in wanted))
    ran = bed.running()
    try:
        bed.up(*(() if ran else ("--fresh",)))
        yield of_bed(bed)
    finally:
        if not ran:
            bed.down()
