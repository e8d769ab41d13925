"""Rendered overlays of deploy/kubernetes: restricted pods, valid settings, supported API versions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from archelon_core.settings import Settings
from cloud_controller.settings import CloudControllerSettings
from service_manager.settings import ServiceManagerSettings
from tests.archelon.harness import archelon
from tests.conftest import missing

from .kubectl import NEEDED, program

ROOT = Path(__file__).parents[2]
_TODAY = {"PodDisruptionBudget": "policy/v1", "HorizontalPodAutoscaler": "autoscaling/v2"}
_BEFORE = {"PodDisruptionBudget": "policy/v1beta1", "HorizontalPodAutoscaler": "autoscaling/v2beta2"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/kubernetes with keys."""
    if program() is None:
        missing(NEEDED, command="make clean test, which installs one")
    made = tmp_path_factory.mktemp("overlays") / "kubernetes"
    shutil.copytree(ROOT / "deploy" / "kubernetes", made)
    keys = made / "overlays" / "example" / "keys"
    assert archelon("keys", keys).status == 0
    (keys / "realm.yaml").write_text("tenants: {}\n")
    (keys / "database.env").write_text(
        "service-manager-url=postgresql://x/sm\ncloud-controller-url=postgresql://x/cc\n"
    )
    return made


def _rendered(tree: Path, overlay: str) -> list[dict[str, Any]]:
    ended = subprocess.run(
        [str(program()), "kustomize", str(tree / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [each for each in yaml.safe_load_all(ended.stdout) if each]


@pytest.mark.parametrize(("overlay", "versions"), [("example", _TODAY), ("testbed", _BEFORE)])
def test_api_versions_are_those_of_the_servers(tree: Path, overlay: str, versions: dict[str, str]) -> None:
    rendered = _rendered(tree, overlay)
    found = {each["kind"]: each["apiVersion"] for each in rendered if each["kind"] in versions}
    assert found == versions


def test_every_pod_is_restricted(tree: Path) -> None:
    deployments = [each for each in _rendered(tree, "example") if each["kind"] == "Deployment"]
    assert len(deployments) == 4
    for each in deployments:
        spec = each["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert each["spec"]["replicas"] == 2
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == "registry.example.org/archelon:0.1.0"
        assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= container.keys()
        # The service manager has no service account token.
        assert spec.get("automountServiceAccountToken", True) is not each["metadata"]["name"].startswith("service-")


def test_rights_are_limited_to_the_tenants_namespace_without_escalation(tree: Path) -> None:
    rendered = _rendered(tree, "example")
    roles = [each for each in rendered if each["kind"] == "Role"]
    assert {each["metadata"]["namespace"] for each in roles} == {"archelon-tenants"}
    (wide,) = [each for each in rendered if each["kind"] == "ClusterRole"]
    assert [(each["resources"], each["resourceNames"], each["verbs"]) for each in wide["rules"]] == [
        (["namespaces"], ["archelon-tenants"], ["get"])
    ]
    given = {(group, resource, verb) for role in roles for rule in role["rules"]
             for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}  # fmt: skip
    assert not [each for each in given if "*" in each]
    resources = {resource for _, resource, _ in given}
    assert resources.isdisjoint({"roles", "rolebindings", "serviceaccounts", "pods/exec", "pods/attach"})
    (web,) = [each for each in roles if each["metadata"]["name"] == "cloud-controller-web"]
    assert "delete" not in {verb for rule in web["rules"] for verb in rule["verbs"]}


@pytest.mark.parametrize("overlay", ["example", "testbed"])
def test_the_services_accept_their_settings(tree: Path, overlay: str, tmp_path: Path) -> None:
    """As in a pod: the mounted file, and environment variables from Secrets."""
    rendered = _rendered(tree, overlay)
    maps = {each["metadata"]["name"]: each["data"] for each in rendered if each["kind"] == "ConfigMap"}
    kinds: dict[str, type[Settings]] = {
        "service-manager": ServiceManagerSettings,
        "cloud-controller": CloudControllerSettings,
    }
    for each in (found for found in rendered if found["kind"] == "Deployment"):
        spec = each["spec"]["template"]["spec"]
        (mounted,) = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
        config = tmp_path / "settings.yaml"
        config.write_text(maps[mounted]["settings.yaml"])
        environment = {"ARCHELON_CONFIG": str(config)}
        for variable in spec["containers"][0]["env"]:
            if "valueFrom" in variable:
                environment[variable["name"]] = (
                    '{"keys": []}' if "VERIFICATION" in variable["name"] else "of-a-secret" * 3
                )
            elif variable["name"] not in environment:
                environment[variable["name"]] = variable["value"]
        settings = kinds[each["metadata"]["labels"]["app.kubernetes.io/name"]].load(environment)
        if isinstance(settings, ServiceManagerSettings):
            (ingress,) = [found for found in rendered if found["kind"] == "Ingress"]
            assert settings.url == f"https://{ingress['spec']['rules'][0]['host']}"
            assert settings.internal_url == "http://service-manager.archelon.svc:8888"
