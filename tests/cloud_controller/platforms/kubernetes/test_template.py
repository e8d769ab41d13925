"""Templates: values stay values, what a stack may not have is refused with its place, the rest is marked and hardened."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bundles
from cloud_controller.platforms.interface import DeployError
from cloud_controller.platforms.kubernetes.outputs import OutputValue, PathError, outputs
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


def test_objects_carry_whose_they_are_and_select_their_own_alone() -> None:
    found = rendered(WEB, WEB_VALUES)
    assert [each["kind"] for each in found.objects] == ["ConfigMap", "Secret", "Deployment", "Service"]
    for each in found.objects:
        labels = each["metadata"]["labels"]
        assert each["metadata"]["namespace"] == "ns"
        assert (labels["archelon.org/instance"], labels["archelon.org/stack"]) == ("i-1", "s1")
        assert (labels["archelon.org/tenant"], labels["archelon.org/generation"]) == ("t-1", "1")
        assert labels["app.kubernetes.io/managed-by"] == "archelon"
        # A type is a URL, which no label holds: it stands beside.
        assert each["metadata"]["annotations"]["archelon.org/service"] == "http://schemas.example.org/occi/sm#web"
    deployment = object_of(found, "Deployment")
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == {"tier": "web", "archelon.org/stack": "s1"}
    assert object_of(found, "Service")["spec"]["selector"] == {"tier": "web", "archelon.org/stack": "s1"}
    assert pod["archelon.org/node"] == "web"
    assert pod["app.kubernetes.io/component"] == "pod"
    # Another generation alone must not roll the pods.
    assert "archelon.org/generation" not in pod


def test_what_a_template_leaves_open_is_closed() -> None:
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


def test_values_that_are_no_scalars_and_unknown_ones_are_refused_without_being_shown() -> None:
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
    ({"pod": ", nodeName: n1"}, "nodeName goes past the scheduler"),
    ({"pod": ", serviceAccountName: admin"}, "act as no service account"),
    ({"pod": ", automountServiceAccountToken: true"}, "have no token"),
    ({"pod": ", priorityClassName: system-node-critical"}, "priorityClassName is the operator's to choose"),
    ({"pod": ", volumes: [{name: v, hostPath: {path: /}}]"}, "hostPath reaches out of the pod"),
    ({"pod": ", volumes: [{name: v, csi: {driver: x}}]"}, "csi reaches out"),
    ({"pod": ", volumes: [{name: v, secret: {secretName: app-other}}]"}, "the Secret is not this template's"),
    ({"pod": ", volumes: [{name: v, persistentVolumeClaim: {claimName: x}}]"}, "PersistentVolumeClaim is not this"),
    (
        {"pod": ", volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]"},
        "serviceAccountToken is nothing that a stack's pod may have",
    ),
    ({"pod": ", imagePullSecrets: [{name: theirs}]"}, "the Secret theirs is not this stack's"),
    ({"pod": ", securityContext: {sysctls: [{name: a, value: b}]}"}, "sysctls loosens"),
    ({"pod": ", securityContext: {runAsUser: 0}"}, "do not run as root"),
    ({"container": ", securityContext: {privileged: true}"}, "privileged is a privilege"),
    ({"container": ", securityContext: {allowPrivilegeEscalation: true}"}, "allowPrivilegeEscalation is a privilege"),
    ({"container": ", securityContext: {capabilities: {add: [SYS_ADMIN]}}"}, "SYS_ADMIN is a privilege"),
    ({"container": ", securityContext: {seccompProfile: {type: Unconfined}}"}, "is the runtime's"),
    ({"container": ", securityContext: {procMount: Unmasked}"}, "procMount loosens"),
    ({"container": ", ports: [{containerPort: 1, hostPort: 1}]"}, "port of the node is a privilege"),
    ({"container": ", envFrom: [{secretRef: {name: other}}]"}, "the Secret is not this template's"),
    ({"pod": ", priorityClassName: high"}, "priorityClassName is the operator's to choose"),
    ({"pod": ", runtimeClassName: weak"}, "runtimeClassName is the operator's to choose"),
    ({"pod": ", tolerations: [{operator: Exists}]"}, "nodes that are set apart"),
    ({"pod": ", tolerations: [{key: node-role.kubernetes.io/control-plane}]"}, "nodes that are set apart"),
    ({"pod": ", terminationGracePeriodSeconds: 86400"}, "cannot be removed"),
    (
        {"container": ", livenessProbe: {httpGet: {host: 169.254.169.254, port: 80}}"},
        "the node itself would ask another machine",
    ),
    (
        {"container": ", lifecycle: {postStart: {tcpSocket: {host: 127.0.0.1, port: 10250}}}"},
        "the node itself would ask another machine",
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
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, namespace: kube-system}", "namespace is the region's"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: i-1}", "an object has no name"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, finalizers: [x/y]}", "finalizers is not a template's"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, ownerReferences: [{}]}", "ownerReferences is not"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: i-1, labels: {archelon.org/tenant: t}}",
            "knows its objects",
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
            "clusterIP would catch or lead away others' traffic",
        ),
        # Names become paths of requests.
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x-i-1/../../secrets/app-theirs}", "is no name of an object"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 'theirs/log?container=x&i-1'}", "is no name of an object"),
        # An empty selector of a Job's own would take over every pod that nobody owns.
        ("apiVersion: batch/v1\nkind: Job\nmetadata: {name: i-1}\nspec: {manualSelector: true}", "others' pods"),
        (
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: i-1}\n"
            "spec: {jobTemplate: {spec: {selector: {matchLabels: {app.kubernetes.io/managed-by: archelon}}}}}",
            "others' pods",
        ),
        # What is made of a template has its metadata.
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: i-1}\n"
            "spec: {template: {metadata: {finalizers: [x/y]}, spec: {}}}",
            "finalizers is not a template's",
        ),
        (
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: i-1}\n"
            "spec: {jobTemplate: {metadata: {annotations: {archelon.org/instance: theirs}}}}",
            "knows its objects",
        ),
        (
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: i-1}\n"
            "spec: {volumeClaimTemplates: [{metadata: {name: d, finalizers: [x/y]}}]}",
            "finalizers is not a template's",
        ),
        (
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: i-1}\n"
            "spec: {volumeClaimTemplates: [{metadata: {name: d}, spec: {volumeName: theirs}}]}",
            "volumeName could take",
        ),
        # The server's refusal would show the value.
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\nstringData: {pin: 4711}", r"pin: .*is no text"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\ndata: 4711", r"data: .*is no mapping"),
        (
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: i-1}\n"
            "spec: {scaleTargetRef: {kind: Deployment, name: theirs}}",
            "it scales what is not in this template",
        ),
        (
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: i-1}\nspec: {volumeName: theirs}",
            "volumeName could take",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: i-1}\nspec: {replicas: many}",
            "no number of replicas",
        ),
        ("- a list", "a document is an object"),
        ("# nothing", "nothing to make"),
        ("a: [", "template:"),
    ],
)
def test_what_a_stack_may_not_have_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DeployError, match=problem):
        rendered(text)


def test_a_refused_secret_is_not_shown() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: i-1}\nstringData: {pin: 4711}"
    with pytest.raises(DeployError) as refused:
        rendered(text)
    assert "4711" not in str(refused.value)


WAY_IN = """
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
        # Another instance's name, one that is nobody's, every name.
        (f"rules: [{{host: shop.apps.example.org, {PATHS}}}]", "", r"\$\.spec\.rules\[0\]\.host: .*another instance"),
        (f"rules: [{{host: '*.apps.example.org', {PATHS}}}]", "", "another instance"),
        (f"rules: [{{host: i-1.bank.example.com, {PATHS}}}]", "", "is none of this region's"),
        (f"rules: [{{host: i-1.apps.example.org.example.com, {PATHS}}}]", "", "is none of this region's"),
        (f"rules: [{{{PATHS}}}]", "", "would answer for every name"),
        ("defaultBackend: {service: {name: web-i-1}}", "", "would answer for every name"),
        ("tls: [{hosts: [shop.apps.example.org]}]", "", "another instance"),
        (
            f"rules: [{{host: i-1.example.net, {PATHS.replace('name: web-i-1', 'name: theirs')}}}]",
            "",
            "the Service is not this template's",
        ),
        (
            "rules: [{host: i-1.example.net, http: {paths: [{backend: {resource: {kind: Secret, name: x}}}]}}]",
            "",
            "leads to a Service alone",
        ),
        (
            f"rules: [{{host: i-1.example.net, {PATHS}}}]",
            ", annotations: {nginx.ingress.kubernetes.io/server-snippet: x}",
            "tells the Ingress controller",
        ),
        (f"rules: [{{host: i-1.example.net, {PATHS}}}]", ", annotations: {example.org/rewrite: x}", ""),
    ],
)
def test_the_way_in_is_for_names_of_ones_own(spec: str, metadata: str, problem: str) -> None:
    hosts, annotations = [".apps.example.org", "*.example.net"], ["example.org/rewrite"]
    policy = TemplatePolicy.of(ingress_hosts=hosts, ingress_annotations=annotations)
    text = order(WAY_IN.format(spec=spec, metadata=metadata))
    if not problem:
        assert object_of(render(text, policy, region="k", namespace="ns"), "Ingress")["spec"]["rules"]
        return
    with pytest.raises(DeployError, match=problem):
        render(text, policy, region="k", namespace="ns")


def test_without_names_to_give_a_region_has_no_way_in() -> None:
    with pytest.raises(DeployError, match=r"this region gives no names .*`ingress_hosts`"):
        rendered(WAY_IN.format(spec=f"rules: [{{host: i-1.example.net, {PATHS}}}]", metadata=""))
    with pytest.raises(ValueError, match=r"`ingress_hosts` has 'apps\.example\.org'; write \*\.apps\.example\.org"):
        TemplatePolicy.of(ingress_hosts=["apps.example.org"])


def test_pods_keep_away_from_their_own_stack_alone() -> None:
    """An anti-affinity works both ways: one that means every pod would keep other tenants' off the nodes."""
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
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data'}}", "a brace has no partner"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{data}'}}", "is no path"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?}'}}", "is no JSONPath"),
        ("outputs: {a: {of: ConfigMap/i-1}}", "an output has a `value`"),
        # Paths run in workers that all tenants share: each of these can take for ever.
        ("outputs: {a: {of: ConfigMap/i-1, value: '{..*..*..*}'}}", "goes down with `..` once at most"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?search(@, \"(a+)+$\")]}'}}", "calls no functions"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?@ =~ /(a+)+$/]}'}}", "calls no functions"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{.data[?$.data.*]}'}}", "looks from the root once"),
        ("outputs: {a: {of: ConfigMap/i-1, value: '{[*,*][*,*][*,*]}'}}", "chooses one thing in a bracket"),
        ("nodes: {a: {of: ConfigMap/i-1}}", "ConfigMap has no replicas"),
        ("output: {}", "a Stack has no 'output'"),
    ],
)
def test_our_own_document_is_checked(ours: str, problem: str) -> None:
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: i-1}}\n---\napiVersion: archelon.org/v1\nkind: Stack\n{ours}"
    with pytest.raises(DeployError, match=problem):
        rendered(text)


def test_outputs_are_any_field() -> None:
    found = rendered(WEB, WEB_VALUES)
    service = {"spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "other", "port": 1}, {"name": "http", "port": 80}]}}
    assert found.outputs["url"].value(service) == "http://10.0.0.1:80/"
    assert found.outputs["port"].value(service) == 1
    assert found.outputs["url"].value({"spec": {}}) is None
    quoted = OutputValue.of(("Service", "x"), "{.a['b..$,(c'][?(@.d=='(,..$' && @.e)].e}")
    assert quoted.value({"a": {"b..$,(c": [{"d": "(,..$", "e": 1}, {"d": "x", "e": 2}]}}) == 1
    assert OutputValue.of(("Service", "x"), "{..port}").value(service) == [1, 80]


def test_outputs_are_small() -> None:
    large = {("ConfigMap", "x"): {"data": {"a": "y" * (200 << 10)}}}
    one = OutputValue.of(("ConfigMap", "x"), "{.data.a}")
    assert outputs({"a": one}, large)["a"] == large[("ConfigMap", "x")]["data"]["a"]
    for wanted in ({"a": one, "b": one}, {"a": OutputValue.of(("ConfigMap", "x"), "{.data.a}" * 100)}):
        with pytest.raises(PathError, match="more than 262144 characters"):
            outputs(wanted, large)


def test_kinds_are_a_regions_to_choose() -> None:
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
def test_whatever_stands_there_is_rendered_or_refused(
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
