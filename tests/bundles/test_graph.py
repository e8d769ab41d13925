"""Graphs of services: order, cycles, and contradictions between manifests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import BundleError, Manifest, ServiceGraph, layers, read_manifest, supplier_layers
from bundles.graph import strong_components

SM = "http://s/sm#"


def manifest(term: str, *needs: object, **attributes: object) -> Manifest:
    """A service that depends on others; each is a term, or a term with its entry."""
    entries = [{SM + need: {}} if isinstance(need, str) else {SM + need[0]: need[1]} for need in needs]  # type: ignore[index]
    document = {"service_type": SM + term, "depends_on": entries, "service_attributes": attributes}
    return read_manifest(json.dumps(document, indent=1), file=f"{term}/manifest.json")


def terms(groups: object) -> list[list[str]]:
    return [[str(name).removeprefix(SM) for name in group] for group in groups]  # type: ignore[attr-defined]


def test_layers_contain_what_can_start_concurrently() -> None:
    graph = ServiceGraph(
        [manifest("app", "db", "web"), manifest("web", "dns"), manifest("db", "disk"), manifest("dns")]
    )
    assert terms(graph.layers()) == [["disk", "dns"], ["web", "db"], ["app"]]
    assert graph.needs(SM + "app") == {SM + term for term in ("db", "web", "dns", "disk")}
    assert graph.needs(SM + "disk") == frozenset()
    assert graph.edges()[SM + "web"] == (SM + "dns",)


def test_a_cycle_of_instances_is_refused_by_name() -> None:
    with pytest.raises(BundleError) as error:
        ServiceGraph([manifest("a", "x", "b"), manifest("b", "c"), manifest("c", "a"), manifest("x")])
    (problem,) = error.value.problems
    assert problem.message == (
        "instances would create one another endlessly: http://s/sm#a → http://s/sm#b → http://s/sm#c → http://s/sm#a"
    )
    assert problem.remedy == "bind one of them to an instance that exists, or remove an entry"
    assert (problem.file, problem.line, problem.path) == ("a/manifest.json", 8, "$.depends_on[1]['http://s/sm#b']")


def test_two_cycles_are_both_named() -> None:
    with pytest.raises(BundleError) as error:
        ServiceGraph([manifest("a", "b"), manifest("b", "a"), manifest("c", "d", "a"), manifest("d", "c")])
    assert [problem.file for problem in error.value.problems] == ["a/manifest.json", "c/manifest.json"]


@pytest.mark.parametrize(
    ("entry", "attributes", "ends"),
    [
        ({"bind": {"id": "urn:uuid:1"}}, {}, True),
        ({"bind": {"parameter": "p"}}, {"p": "required"}, True),
        ({"bind": {"parameter": "p"}}, {"p": "mutable"}, False),
    ],
)
def test_a_binding_breaks_a_cycle_if_it_always_binds(entry: object, attributes: dict[str, str], *, ends: bool) -> None:
    manifests = [manifest("a", ("b", entry), **attributes), manifest("b", "a")]
    if ends:
        assert terms(ServiceGraph(manifests).layers()) == [["a"], ["b"]]
    else:
        with pytest.raises(BundleError, match="endlessly"):
            ServiceGraph(manifests)


def test_inputs_order_suppliers_and_may_form_cycles() -> None:
    chain = manifest("app", ("c", {"inputs": [SM + "b#x"]}), ("b", {"inputs": [SM + "a#x"]}), "a", "z")
    ordered = [[item.type.removeprefix(SM) for item in layer] for layer in supplier_layers(chain)]
    assert ordered == [["a", "z"], ["b"], ["c"]]
    around = manifest(
        "app", ("a", {"inputs": [SM + "b#x"]}), ("b", {"inputs": [SM + "a#x"]}), ("c", {"inputs": [SM + "a#x"]})
    )
    assert [[item.type.removeprefix(SM) for item in layer] for layer in supplier_layers(around)] == [["a", "b"], ["c"]]


def test_one_type_is_described_once() -> None:
    with pytest.raises(
        BundleError, match=r"a/manifest\.json:2:18: \$\.service_type: .* is described by a/manifest\.json too"
    ):
        ServiceGraph([manifest("a"), manifest("a", "b")])


def test_contradictions_between_manifests_are_reported() -> None:
    app = manifest(
        "app",
        ("maas", {"attributes": {"maas.size": "big", "maas.url": "x", "nope": 1}}),
        ("dns", {"inputs": [SM + "maas#maas.url", SM + "maas#typo", SM + "far#anything"]}),
        "far",
    )
    maas = manifest("maas", **{"maas.url": "immutable", "maas.size": {"type": "number"}, "maas.key": "required"})
    dns = manifest("dns", **{"maas.url": "mutable", "typo": "mutable", "anything": "mutable"})
    found = [f"{problem.path} {problem.message}" for problem in sorted(ServiceGraph([app, maas, dns]).problems())]
    assert sorted(found) == sorted(
        [
            "$.depends_on[0]['http://s/sm#maas'].attributes['maas.size'] is not of type number",
            "$.depends_on[0]['http://s/sm#maas'].attributes['maas.url'] maas.url of http://s/sm#maas is immutable",
            "$.depends_on[0]['http://s/sm#maas'].attributes.nope http://s/sm#maas has no attribute nope",
            "$.depends_on[0]['http://s/sm#maas'] http://s/sm#maas requires maas.key",
            "$.depends_on[1]['http://s/sm#dns'].inputs[1] http://s/sm#maas has no attribute typo",
        ]
    )
    assert ServiceGraph([app]).problems() == []
    assert len(ServiceGraph([app, maas, dns]).problems(SM + "app")) == len(found)
    assert ServiceGraph([app, maas, dns]).problems(SM + "maas", SM + "dns") == []


def test_an_input_may_name_what_every_supplier_has() -> None:
    inputs = ["mcn.service.state", "occi.mcn.stack.id", "org.archelon.region", "url.RegionOne", "url.Elsewhere"]
    taken = [{"from": f"{SM}maas#{name}", "as": f"x{index}"} for index, name in enumerate(inputs)]
    app = manifest("app", "maas", ("dns", {"inputs": taken}))
    document = {"service_type": SM + "maas", "service_attributes": {"url": "immutable"}}
    regions = {"RegionOne": {"deployment": "a.yaml"}, "RegionTwo": {"deployment": "a.yaml"}}
    maas = read_manifest(json.dumps({**document, "resources": regions}), file="manifest.json")
    (problem,) = ServiceGraph([app, maas]).problems()
    assert problem.message == "http://s/sm#maas has no attribute url.Elsewhere"
    assert problem.remedy.startswith("take one of url, or declare it in")


graphs = st.integers(1, 8).flatmap(
    lambda count: st.lists(
        st.lists(st.integers(0, count - 1), max_size=4, unique=True), min_size=count, max_size=count
    ).map(lambda edges: {str(node): [str(below) for below in edges[node]] for node in range(count)})
)


def reaches(edges: dict[str, list[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = list(edges[start])
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(edges[node])
    return found


@given(graphs)
def test_layers_of_any_graph(edges: dict[str, list[str]]) -> None:
    ordered = layers(edges)
    level = {node: number for number, layer in enumerate(ordered) for node in layer}
    assert sorted(level) == sorted(edges)
    reach = {node: reaches(edges, node) for node in edges}
    for group in strong_components(edges):
        for node in group:
            together = {other for other in reach[node] if node in reach[other]} | {node}
            assert set(group) == together
    for node, below in edges.items():
        for other in below:
            mutual = node in reach[other]
            assert level[other] == level[node] if mutual else level[other] < level[node]


def test_a_long_chain_needs_no_recursion() -> None:
    edges = {str(number): [str(number + 1)] for number in range(5000)} | {"5000": []}
    assert len(layers(edges)) == 5001
