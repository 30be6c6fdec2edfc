"""Who reaches whom."""

import pytest

from tests.support.manifests import LOADER, OVERLAYS, allowed, of_kind, pods, selects

PORTS = {8000, 8001, 9092, 9097, 9098, 9099}


@pytest.mark.parametrize(
    ("source", "target", "open_ports"),
    [
        ("supernode", "superlink", {9092}),
        ("registration", "superlink", {8000}),
        ("loader", "superlink", set()),
        ("loader", "supernode", set()),
        ("superlink", "supernode", set()),
        ("superlink", "superlink", set()),
        ("supernode", "supernode", set()),
        ("registration", "supernode", set()),
    ],
)
def test_network_policies_let_only_this_pass(builds, source, target, open_ports):
    for name in OVERLAYS:
        found = [*builds[name], *LOADER]
        policies = list(of_kind(found, "NetworkPolicy").values())
        for caller in pods(found):
            for called in pods(found):
                if caller.owner.startswith(source) and called.owner.startswith(target):
                    reached = {
                        port for port in PORTS if allowed(policies, caller.labels, called.labels, port)
                    }
                    assert reached == open_ports


def test_nobody_else_is_called_or_calls(builds):
    stranger = {"app": "another"}
    for name in OVERLAYS:
        found = [*builds[name], *LOADER]
        policies = list(of_kind(found, "NetworkPolicy").values())
        for pod in pods(found):
            for port in {*PORTS, 443}:
                assert not allowed(policies, pod.labels, stranger, port)
                assert not allowed(policies, stranger, pod.labels, port)


def test_only_an_edge_federation_is_open_to_the_outside_and_only_for_grpc(builds):
    for name, found in builds.items():
        doors = [
            (service["spec"]["type"], [port["port"] for port in service["spec"]["ports"]])
            for service in of_kind(found, "Service").values()
            if service["spec"].get("type", "ClusterIP") != "ClusterIP"
        ]
        assert doors == ([("LoadBalancer", [9092])] if name == "edge" else [])


def test_addresses_outside_may_call_the_door_only(builds):
    for name, found in builds.items():
        blocks = [
            (peer["ipBlock"]["cidr"], [port["port"] for port in rule["ports"]])
            for policy in of_kind(found, "NetworkPolicy").values()
            for rule in policy["spec"].get("ingress", ())
            for peer in rule["from"]
            if "ipBlock" in peer
        ]
        assert blocks == ([("203.0.113.0/24", [9092])] if name == "edge" else [])


def test_owners_and_budgets_select_their_own_pods_and_no_others(objects):
    for kind in ("StatefulSet", "PodDisruptionBudget"):
        for name, owner in of_kind(objects, kind).items():
            chosen = [pod.owner for pod in pods(objects) if selects(owner["spec"]["selector"], pod.labels)]
            assert chosen == [name]


def test_services_lead_to_ports(objects):
    for service in of_kind(objects, "Service").values():
        selector = {"matchLabels": service["spec"]["selector"]}
        (pod,) = [pod for pod in pods(objects) if selects(selector, pod.labels)]
        ports = {port["name"]: port["containerPort"] for port in pod.container("superlink")["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
