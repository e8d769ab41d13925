"""Templates: values never become structure, violations are refused with their place, the rest is labelled and hardened."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bundles
from bundles.kubernetes.outputs import OutputValue, PathError, outputs
from cloud_controller.platforms.interface import DeployError
from cloud_controller.platforms.kubernetes.policy import KINDS, TemplatePolicy
from cloud_controller.platforms.kubernetes.template import Rendered, render
from sdk.templates import Document
from tests.orchestrators.bundles import GUESTBOOK

from .templates import POD, WEB, order

WEB_VALUES = {"word": "hello", "image": "web:1"}


def rendered(template: str, parameters: dict[str, Any] | None = None, **changes: Any) -> Rendered:
    return render(order(template, parameters, **changes), TemplatePolicy.of(), region="k", namespace="ns")


def object_of(found: Rendered, kind: str) -> dict[str, Any]:
    [one] = [each for each in found.objects if each["kind"] == kind]
    return one


def test_objects_carry_their_owner_and_select_only_their_own() -> None:
    found = rendered(WEB, WEB_VALUES)
    assert [each["kind"] for each in found.objects] == ["ConfigMap", "Secret", "Deployment", "Service"]
    for each in found.objects:
        labels = each["metadata"]["labels"]
        assert each["metadata"]["namespace"] == "ns"
        assert (labels["archelon.org/instance"], labels["archelon.org/stack"]) == ("i-1", "s1")
        assert (labels["archelon.org/tenant"], labels["archelon.org/generation"]) == ("t-1", "1")
        assert labels["app.kubernetes.io/managed-by"] == "archelon"
        # A service type is a URL, not a valid label value: the annotation has it.
        assert each["metadata"]["annotations"]["archelon.org/service"] == "http://schemas.example.org/occi/sm#web"
    deployment = object_of(found, "Deployment")
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == {"tier": "web", "archelon.org/stack": "s1"}
    assert object_of(found, "Service")["spec"]["selector"] == {"tier": "web", "archelon.org/stack": "s1"}
    assert pod["archelon.org/node"] == "web"
    assert pod["app.kubernetes.io/component"] == "pod"
    # A newer generation alone must not restart the pods.
    assert "archelon.org/generation" not in pod


def test_security_settings_that_a_template_leaves_open_are_strict() -> None:
    spec = object_of(rendered(WEB, WEB_VALUES), "Deployment")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": True}
    assert spec["containers"][0]["securityContext"] == {
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("evil", ["x\n---\nkind: Pod", "{a: b}", "- y", "${word}", '"', "a: b\nc: d", "!!python/x"])
def test_a_value_never_becomes_structure(evil: str) -> None:
    found = rendered(WEB, {**WEB_VALUES, "word": evil})
    assert object_of(found, "Secret")["stringData"] == {"WORD": evil}
    assert len(found.objects) == 4


def test_unknown_values_are_refused_without_showing_others() -> None:
    with pytest.raises(DeployError, match=r"template:\d+:\d+: \$\.stringData\.WORD: \$\{word\} is unknown"):
        rendered(WEB, {"image": "s3cret"})
    with pytest.raises(DeployError) as refused:
        rendered(WEB, {"image": "s3cret"})
    assert "s3cret" not in str(refused.value)


def test_scaled_and_suspended() -> None:
    assert object_of(rendered(WEB, WEB_VALUES, counts={"web": 2}), "Deployment")["spec"]["replicas"] == 2
    assert object_of(rendered(WEB, WEB_VALUES, counts={"web": 9}), "Deployment")["spec"]["replicas"] == 3
    assert "replicas" not in object_of(rendered(WEB, WEB_VALUES), "Deployment")["spec"]
    suspended = rendered(WEB, WEB_VALUES, counts={"web": 2}, presence="suspended")
    assert object_of(suspended, "Deployment")["spec"]["replicas"] == 0


def test_without_nodes_workloads_are_nodes_of_their_own_name() -> None:
    found = rendered(WEB.rpartition("---")[0], WEB_VALUES)
    assert [(node.name, node.minimum) for node in found.nodes.values()] == [("web", 0)]


REFUSED_PODS = [
    ({"pod": ", hostNetwork: true"}, "hostNetwork is a privilege of the node"),
    ({"pod": ", hostPID: true"}, "hostPID is a privilege"),
    ({"pod": ", hostIPC: true"}, "hostIPC is a privilege"),
    ({"pod": ", nodeName: n1"}, "nodeName bypasses the scheduler"),
    ({"pod": ", serviceAccountName: admin"}, "may not use a service account"),
    ({"pod": ", automountServiceAccountToken: true"}, "may not have a token"),
    ({"pod": ", priorityClassName: system-node-critical"}, "priorityClassName is reserved to the operator"),
    ({"pod": ", volumes: [{name: v, hostPath: {path: /}}]"}, "a hostPath volume reaches outside of the pod"),
    ({"pod": ", volumes: [{name: v, csi: {driver: x}}]"}, "a csi volume reaches outside"),
    ({"pod": ", volumes: [{name: v, secret: {secretName: app-other}}]"}, "the Secret is not this template's"),
    ({"pod": ", volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]"}, "PersistentVolumeClaim is not this"),
    (
        {"pod": ", volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"},
        "serviceAccountToken is not permitted in a stack's pod",
    ),
    ({"pod": ", imagePullSecrets: [{name: theirs}]"}, "the Secret theirs is not this stack's"),
    ({"pod": ", securityContext: {sysctls: [{name: a, value: b}]}"}, "sysctls weakens"),
    ({"pod": ", securityContext: {runAsUser: 0}"}, "may not run as root"),
    ({"container": ", securityContext: {privileged: true}"}, "privileged is a privilege"),
    ({"container": ", securityContext: {allowPrivilegeEscalation: true}"}, "allowPrivilegeEscalation is a privilege"),
    ({"container": ", securityContext: {capabilities: {add: [SYS_ADMIN]}}"}, "SYS_ADMIN is a privilege"),
    ({"container": ", securityContext: {seccompProfile: {type: Unconfined}}"}, "must be the runtime's"),
    ({"container": ", securityContext: {procMount: Unmasked}"}, "procMount weakens"),
    ({"container": ", ports: [{containerPort: 1, hostPort: 1}]"}, "port of the node is a privilege"),
    ({"container": ", envFrom: [{secretRef: {name: other}}]"}, "the Secret is not this template's"),
    ({"pod": ", priorityClassName: high"}, "priorityClassName is reserved to the operator"),
    ({"pod": ", runtimeClassName: weak"}, "runtimeClassName is reserved to the operator"),
    ({"pod": ", tolerations: [{operator: Exists}]"}, "reserved nodes"),
    ({"pod": ", tolerations: [{key: node-role.kubernetes.io/control-plane}]"}, "reserved nodes"),
    ({"pod": ", terminationGracePeriodSeconds: 86400"}, "cannot be removed"),
    (
        {"container": ", livenessProbe: {httpGet: {host: 169.254.169.254, port: 80}}"},
        "the node would call this host",
    ),
    (
        {"container": ", lifecycle: {postStart: {tcpSocket: {host: 127.0.0.1, port: 10250}}}"},
        "the node would call this host",
    ),
    (
        {"container": ", env: [{name: A, valueFrom: {secretKeyRef: {name: other, key: k}}}]"},
        "the Secret is not this template's",
    ),
]


@pytest.mark.parametrize(("parts", "problem"), REFUSED_PODS)
def test_a_privilege_is_refused_with_its_place_wherever_pods_are_described(parts: dict[str, str], problem: str) -> None:
    pod = POD.format(**{"pod": "", "container": "", **parts})
    with pytest.raises(DeployError, match=rf"template:\d+:\d+: \$\.spec\..*{problem}"):
        rendered(pod)
    spec = pod.partition("spec: ")[2]
    for kind, around in (
        ("apps/v1/Deployment", "spec: {{template: {{spec: {}}}}}"),
        ("batch/v1/Job", "spec: {{template: {{spec: {}}}}}"),
        ("batch/v1/CronJob", "spec: {{jobTemplate: {{spec: {{template: {{spec: {}}}}}}}}}"),
    ):
        version, _, name = kind.rpartition("/")
        text = f"apiVersion: {version}\nkind: {name}\nmetadata: {{name: x-i-1}}\n{around.format(spec.strip())}\n"
        with pytest.raises(DeployError, match=problem):
            rendered(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: i-1}", "stacks may not have Namespace in v1"),
        (
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: i-1}",
            "may not have RoleBinding",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}",
            "another instance's object could have the same name",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, namespace: kube-system}",
            "region determines the namespace",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: i-1}", "an object has no name"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, finalizers: [x/y]}", "finalizers may not be set"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, ownerReferences: [{}]}",
            "ownerReferences may not be set",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, labels: {archelon.org/tenant: t}}",
            "is reserved to the platform",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\ntype: kubernetes.io/service-account-token",
            "service account's token",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: i-1}\nspec: {type: NodePort}",
            "type NodePort are not allowed",
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: i-1}\nspec: {externalIPs: [1.2.3.4]}", "others' traffic"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: i-1}\nspec: {clusterIP: 10.0.0.9}",
            "clusterIP could intercept others' traffic",
        ),
        # Names become segments of request paths.
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x-i-1/../../secrets/app-theirs}", "is not a valid object name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 'theirs/log?container=x&i-1'}", "is not a valid object name"),
        # A Job with an empty selector would match every pod without an owner.
        ("apiVersion: batch/v1\nkind: Job\nmetadata: {name: i-1}\nspec: {manualSelector: true}", "others' pods"),
        (
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: i-1}\n"
            "spec: {jobTemplate: {spec: {selector: {matchLabels: {app.kubernetes.io/managed-by: archelon}}}}}",
            "others' pods",
        ),
        # Derived objects inherit the template's metadata.
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: i-1}\n"
            "spec: {template: {metadata: {finalizers: [x/y]}, spec: {}}}",
            "finalizers may not be set",
        ),
        (
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: i-1}\n"
            "spec: {jobTemplate: {metadata: {annotations: {archelon.org/instance: theirs}}}}",
            "is reserved to the platform",
        ),
        (
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: i-1}\n"
            "spec: {volumeClaimTemplates: [{metadata: {name: d, finalizers: [x/y]}}]}",
            "finalizers may not be set",
        ),
        (
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: i-1}\n"
            "spec: {volumeClaimTemplates: [{metadata: {name: d}, spec: {volumeName: theirs}}]}",
            "volumeName could use",
        ),
        # The server's error would show the value.
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\nstringData: {pin: 4711}", r"pin: .*is not a text"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\ndata: 4711", r"data: .*is not a mapping"),
        (
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: i-1}\n"
            "spec: {scaleTargetRef: {kind: Deployment, name: theirs}}",
            "its target is not in this template",
        ),
        (
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: i-1}\nspec: {volumeName: theirs}",
            "volumeName could use",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: i-1}\nspec: {replicas: many}",
            "not a number of replicas",
        ),
        ("- a list", "a document must be a Kubernetes object"),
        ("# nothing", "it has no objects"),
        ("a: [", "template:"),
    ],
)
def test_a_violation_of_the_policy_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DeployError, match=problem):
        rendered(text)


def test_a_refused_secret_is_not_shown() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\nstringData: {pin: 4711}"
    with pytest.raises(DeployError) as refused:
        rendered(text)
    assert "4711" not in str(refused.value)


INGRESS = """
apiVersion: v1
kind: Service
metadata: {{name: web-i-1}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web-i-1{metadata}}}
spec: {{{spec}}}
"""
PATHS = "http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web-i-1, port: {number: 80}}}}]}"


@pytest.mark.parametrize(
    ("spec", "metadata", "problem"),
    [
        (f"rules: [{{host: web-i-1.apps.example.org, {PATHS}}}]", "", ""),
        (f"rules: [{{host: i-1.example.net, {PATHS}}}], tls: [{{hosts: [i-1.example.net]}}]", "", ""),
        # Another instance's name, a name outside of the domains, every name.
        (f"rules: [{{host: shop.apps.example.org, {PATHS}}}]", "", r"\$\.spec\.rules\[0\]\.host: .*another instance"),
        (f"rules: [{{host: '*.apps.example.org', {PATHS}}}]", "", "another instance"),
        (f"rules: [{{host: i-1.bank.example.com, {PATHS}}}]", "", "is not below this region's domains"),
        (f"rules: [{{host: i-1.apps.example.org.example.com, {PATHS}}}]", "", "is not below this region's domains"),
        (f"rules: [{{{PATHS}}}]", "", "would match every host name"),
        ("defaultBackend: {service: {name: web-i-1}}", "", "would match every host name"),
        ("tls: [{hosts: [shop.apps.example.org]}]", "", "another instance"),
        (
            f"rules: [{{host: i-1.example.net, {PATHS.replace('name: web-i-1', 'name: theirs')}}}]",
            "",
            "the Service is not this template's",
        ),
        (
            "rules: [{host: i-1.example.net, http: {paths: [{backend: {resource: {kind: Secret, name: x}}}]}}]",
            "",
            "may only lead to a Service",
        ),
        (
            f"rules: [{{host: i-1.example.net, {PATHS}}}]",
            ", annotations: {nginx.ingress.kubernetes.io/server-snippet: x}",
            "configures the Ingress controller",
        ),
        (f"rules: [{{host: i-1.example.net, {PATHS}}}]", ", annotations: {example.org/rewrite: x}", ""),
    ],
)
def test_an_ingress_has_only_names_of_its_own_instance(spec: str, metadata: str, problem: str) -> None:
    hosts, annotations = [".apps.example.org", "*.example.net"], ["example.org/rewrite"]
    policy = TemplatePolicy.of(ingress_hosts=hosts, ingress_annotations=annotations)
    text = order(INGRESS.format(spec=spec, metadata=metadata))
    if not problem:
        assert object_of(render(text, policy, region="k", namespace="ns"), "Ingress")["spec"]["rules"]
        return
    with pytest.raises(DeployError, match=problem):
        render(text, policy, region="k", namespace="ns")


def test_a_region_without_domains_has_no_ingress() -> None:
    with pytest.raises(DeployError, match=r"this region has no host names .*`ingress_hosts`"):
        rendered(INGRESS.format(spec=f"rules: [{{host: i-1.example.net, {PATHS}}}]", metadata=""))
    with pytest.raises(ValueError, match=r"`ingress_hosts` has 'apps\.example\.org'; write \*\.apps\.example\.org"):
        TemplatePolicy.of(ingress_hosts=["apps.example.org"])


def test_pods_repel_only_pods_of_their_own_stack() -> None:
    """Anti-affinity works in both directions: a term for every pod would repel other tenants' pods."""
    term = (
        "{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/managed-by: archelon}}}"
    )
    weighed = f"{{weight: 1, podAffinityTerm: {term}}}"
    affinity = (
        f", affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{term}, {{topologyKey: z}}], "
        f"preferredDuringSchedulingIgnoredDuringExecution: [{weighed}]}}}}"
    )
    found = rendered(POD.format(pod=affinity, container=""))
    anti = object_of(found, "Pod")["spec"]["affinity"]["podAntiAffinity"]
    terms = [*anti["requiredDuringSchedulingIgnoredDuringExecution"]]
    terms += [each["podAffinityTerm"] for each in anti["preferredDuringSchedulingIgnoredDuringExecution"]]
    assert [each["labelSelector"]["matchLabels"]["archelon.org/stack"] for each in terms] == ["s1"] * 3


@pytest.mark.parametrize(
    ("ours", "problem"),
    [
        ("outputs: {a: {of: Service/none, value: x}}", "`of` names no object of this template"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data'}}", "unmatched brace"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{data}'}}", "is not a path"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?}'}}", "is not a valid JSONPath"),
        ("outputs: {a: {of: ConfigMap/i-1}}", "an output has a `value`"),
        # Paths run in workers that all tenants share: each of these can take very long.
        ("outputs: {a: {of: ConfigMap/i-1, value: '{..*..*..*}'}}", "has at most one `..`"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?search(@, \"(a+)+$\")]}'}}", "calls no functions"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?@ =~ /(a+)+$/]}'}}", "calls no functions"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?$.data.*]}'}}", "refers to the root only"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{[*,*][*,*][*,*]}'}}", "chooses one thing in a bracket"),
        ("nodes: {a: {of: ConfigMap/i-1}}", "ConfigMap has no replicas"),
        ("output: {}", "a Stack has no 'output'"),
    ],
)
def test_the_document_of_kind_stack_is_checked(ours: str, problem: str) -> None:
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: i-1}}\n---\napiVersion: archelon.org/v1\nkind: Stack\n{ours}"
    with pytest.raises(DeployError, match=problem):
        rendered(text)


def test_outputs_may_be_any_field() -> None:
    found = rendered(WEB, WEB_VALUES)
    service = {"spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "other", "port": 1}, {"name": "http", "port": 80}]}}
    assert found.outputs["url"].value(service) == "http://10.0.0.1:80/"
    assert found.outputs["port"].value(service) == 1
    assert found.outputs["url"].value({"spec": {}}) is None
    quoted = OutputValue.of(("Service", "x"), "{.a['b..$,(c'][?(@.d=='(,..$' && @.e)].e}")
    assert quoted.value({"a": {"b..$,(c": [{"d": "(,..$", "e": 1}, {"d": "x", "e": 2}]}}) == 1
    assert OutputValue.of(("Service", "x"), "{..port}").value(service) == [1, 80]


def test_outputs_are_limited_in_size() -> None:
    large = {("ConfigMap", "x"): {"data": {"a": "y" * (200 << 10)}}}
    one = OutputValue.of(("ConfigMap", "x"), "{.data.a}")
    assert outputs({"a": one}, large)["a"] == large[("ConfigMap", "x")]["data"]["a"]
    for wanted in ({"a": one, "b": one}, {"a": OutputValue.of(("ConfigMap", "x"), "{.data.a}" * 100)}):
        with pytest.raises(PathError, match="exceed 262144 characters"):
            outputs(wanted, large)


def test_a_region_chooses_its_kinds() -> None:
    policy = TemplatePolicy.of(["v1/ConfigMap", "example.org/v1/Widget"])
    assert policy.custom == (("example.org/v1", "Widget"),)
    widget = "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w-i-1}"
    assert render(order(widget), policy, region="k", namespace="ns").objects[0]["kind"] == "Widget"
    with pytest.raises(DeployError, match="may not have Secret"):
        render(order("apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}"), policy, region="k", namespace="ns")
    with pytest.raises(ValueError, match="write <version>/<kind>"):
        TemplatePolicy.of(["Widget"])


def test_the_guestbooks_template_as_the_sdk_orders_it() -> None:
    document = Document.read(bundles.Bundle.load(GUESTBOOK), "templates/kubernetes.yaml", "kubernetes")
    values = {"guestbook.title": "Visitors", "store.endpoint": "http://10.0.0.1:8080", "store.password": "s3cret"}
    assert set(values) < set(document.parameters)
    given = order(document.text, values, files=document.files, counts={"web": 4})
    found = render(given, TemplatePolicy.of(), region="k", namespace="ns", image="archelon:1")
    deployment = object_of(found, "Deployment")
    assert deployment["spec"]["replicas"] == 4
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "archelon:1"
    assert object_of(found, "ConfigMap")["data"]["server.py"] == (GUESTBOOK / "server.py").read_text()
    assert set(found.outputs) == {"guestbook.url", "guestbook.endpoints"}
    with pytest.raises(DeployError, match=r"\$\{org\.archelon\.image\} is unknown"):
        render(given, TemplatePolicy.of(), region="k", namespace="ns")


FIELDS = [
    *("spec", "template", "jobTemplate", "metadata", "labels", "annotations", "selector", "matchLabels", "containers"),
    *("securityContext", "capabilities", "add", "volumes", "env", "envFrom", "valueFrom", "secretKeyRef", "ports"),
    *("replicas", "projected", "sources", "seccompProfile", "rules", "http", "paths", "backend", "scaleTargetRef"),
    *("volumeClaimTemplates", "podSelector", "imagePullSecrets", "initContainers", "nodeSelector", "name"),
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "i-1", "web", "ClusterIP"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    spec=JSON_VALUES,
    ours=JSON_VALUES,
    presence=st.sampled_from(["present", "suspended"]),
    counts=st.sampled_from([{}, {"x": 2}]),
)
def test_any_template_is_rendered_or_refused(
    kind: str, spec: Any, ours: Any, presence: str, counts: dict[str, int]
) -> None:
    version, _, name = kind.rpartition("/")
    documents = [
        {"apiVersion": version, "kind": name, "metadata": {"name": "x-i-1"}, "spec": spec},
        {"apiVersion": "archelon.org/v1", "kind": "Stack", "nodes": ours, "outputs": ours, "conditions": ours},
    ]
    with contextlib.suppress(DeployError):
        found = rendered(bundles.to_text(documents), presence=presence, counts=counts)
        json.dumps(found.objects)
