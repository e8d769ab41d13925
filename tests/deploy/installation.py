"""Archelon on a cluster, installed as in docs/installing-on-kubernetes.md: keys, realm, database, `kubectl apply -k`."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

import bundles
from archelon.connection import Connection
from archelon.service import await_entry, offer
from archelon_core.auth import RealmFile
from occi_service import client
from tests.archelon.harness import archelon
from tests.waiting import until

from .kubectl import Kubectl
from .monitoring import monitor_kinds

ROOT = Path(__file__).parents[2]
SERVICES = "archelon"
TENANTS = "archelon-tenants"
_ROLES = ("tenant", "provider", "operator")
#: Kinds of transient objects, and of objects that represent others.
_TRANSIENT = ("Event", "Lease", "PodMetrics", "NodeMetrics")


@dataclasses.dataclass(frozen=True)
class Installation:
    """A running installation, and its access from this machine.

    Args:
        services, tenants: kubectl in the two namespaces.
        tokens: tokens by role.
        applied: the overlay's objects, as applied.
    """

    services: Kubectl
    tenants: Kubectl
    tokens: Mapping[str, str] = dataclasses.field(repr=False)
    applied: Sequence[Mapping[str, Any]] = dataclasses.field(default=(), repr=False)

    def manager(self, role: str = "tenant") -> client.Client:
        """A client of the service manager, through its Service."""
        return client.Client(self._url("service-manager"), token=self.tokens[role], token_field="X-Auth-Token")

    def publish(self, directory: Path) -> None:
        """Publish a bundle, and wait until it is in the catalogue."""
        bundle = bundles.Bundle.load(directory)
        with self.manager("provider") as manager:
            offer(manager, bundle.pack())
        urls = (self._url("service-manager"), self._url("cloud-controller"))
        await_entry(Connection(urls[0], self.tokens["provider"], urls[1]), bundle.manifest.type)

    def settled(self) -> None:
        """Wait until all four Deployments are rolled out."""
        for name in (
            "service-manager-web",
            "cloud-controller-web",
            "service-manager-worker",
            "cloud-controller-worker",
        ):
            self.services("rollout", "status", f"deployment/{name}", "--timeout=240s", timeout=250)

    def kill(self, kubectl: Kubectl, selector: str, *, one: bool = False) -> list[str]:
        """Delete pods without a grace period; returns their names."""
        found = [each["metadata"]["name"] for each in kubectl.get("pods", "-l", selector)]
        chosen = found[:1] if one else found
        assert chosen, f"there is no pod with {selector} in {kubectl.namespace}"
        kubectl("delete", "pods", *chosen, "--grace-period=0", "--force", "--wait=false")
        return chosen

    def inventory(self) -> set[str]:
        """Name every object that the API lists; the services' pods, whose names change, are only counted."""
        kinds = self.services("api-resources", "--verbs=list", "-o", "name").split()
        line = '{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\\n"}{end}'
        listed = self.services("get", ",".join(kinds), "--all-namespaces", f"-o=jsonpath={line}", timeout=120)
        found = {each for each in listed.splitlines() if each.partition(" ")[0] not in _TRANSIENT}
        pods = {each for each in found if each.startswith(f"Pod {SERVICES}/")}
        return (found - pods) | {f"{len(pods)} pods of the services"}

    def left_since(self, before: set[str]) -> list[str]:
        """Return objects that did not exist before, after waiting for deletions."""
        for _ in range(60):
            left = sorted(self.inventory() - before)
            if not left:
                break
            time.sleep(1.0)
        return left

    def _url(self, service: str) -> str:
        spec = self.services.get("service", service)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"


@contextmanager
def installed(kubeconfig: Path, database: str, directory: Path) -> Iterator[Installation]:
    """Install Archelon, and remove it afterwards with everything of its tenants.

    Args:
        database: URL of a PostgreSQL server as pods reach it, with databases `service_manager` and `cloud_controller`.
        directory: directory for keys and the overlay.
    """
    tree = directory / "kubernetes"
    shutil.copytree(ROOT / "deploy" / "kubernetes", tree)
    keys = tree / "overlays" / "example" / "keys"
    made = archelon("keys", keys)
    assert made.status == 0, made.err
    server = database.rpartition("/")[0]
    lines = [f"{name}-url={server}/{name.replace('-', '_')}" for name in ("service-manager", "cloud-controller")]
    (keys / "database.env").write_text("\n".join(lines) + "\n")
    realm = RealmFile(keys / "realm.yaml", time.time)
    realm.add_tenant("demo")
    tokens = {}
    for role in _ROLES:
        realm.add_user(role, tenant="demo", roles=[role])
        tokens[role] = realm.issue_token(role, tenant="demo", lifetime=None).secret
    services, tenants = Kubectl(kubeconfig, SERVICES), Kubectl(kubeconfig, TENANTS)
    overlay = str(tree / "overlays" / "testbed")
    everywhere = Kubectl(kubeconfig)
    with monitor_kinds(everywhere):
        try:
            everywhere("apply", "-k", overlay)
            applied = [each for each in yaml.safe_load_all(everywhere("kustomize", overlay)) if each]
            found = Installation(services, tenants, tokens, applied)
            found.settled()
            yield found
        finally:
            everywhere("delete", "-k", overlay, "--ignore-not-found", "--wait=false", timeout=120)
            _await_gone(services)


def _await_gone(kubectl: Kubectl) -> None:
    for namespace in (SERVICES, TENANTS):
        until(lambda name=namespace: kubectl.find("namespace", name) is None, f"{namespace} is gone", seconds=180)  # type: ignore[misc]


def state_of(manager: client.Client, path: str) -> Mapping[str, Any]:
    """Return an instance's attributes; fails the test if the instance has failed."""
    shown: Mapping[str, Any] = manager.get(path).attributes
    assert shown["mcn.service.state"] != "fail", shown.get("mcn.service.state.message")
    return shown
