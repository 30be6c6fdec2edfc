"""The objects that ``kubectl kustomize`` makes of ``k8s/``, and questions about them."""

import argparse
import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
KUBERNETES = PROJECT / "k8s"
LOADER = list(yaml.safe_load_all((KUBERNETES / "loader.yaml").read_text()))
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

APP_CODE = {"clientapp", "serverapp"}
"""The containers that run the app's code, which comes with each run."""

Object = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Pod:
    """A pod as an object that makes pods describes it."""

    owner: str
    kind: str
    replicas: int
    labels: Labels
    spec: Mapping[str, Any]
    claims: tuple[str, ...]

    def containers(self) -> list[Mapping[str, Any]]:
        """Return all containers, those that only prepare included."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def container(self, name: str) -> Mapping[str, Any]:
        """Return a container by its name."""
        return next(container for container in self.containers() if container["name"] == name)

    def volume(self, name: str) -> Mapping[str, Any]:
        """Return a volume by its name; one of a claim template is empty."""
        return next((volume for volume in self.spec["volumes"] if volume["name"] == name), {})

    def names(self) -> list[str]:
        """Return the names of a StatefulSet's pods."""
        return [f"{self.owner}-{number}" for number in range(self.replicas)]


def setup_command(overlay: Path) -> list[str]:
    """Return the command that makes an overlay's certificates, from the overlay's own first lines."""
    comment = " ".join(
        line.removeprefix("#").strip().rstrip("\\")
        for line in (overlay / "kustomization.yaml").read_text().splitlines()
        if line.startswith("#")
    )
    found = re.search(r"python (-m deploy\.certificates .*?) kubectl", comment)
    assert found, f"{overlay}: its head does not say how its certificates are made"
    return shlex.split(found[1])


def with_certificates(folder: Path) -> Path:
    """Copy ``k8s/`` into a folder and make each overlay's certificates there, as the overlays say."""
    shutil.copytree(KUBERNETES, folder / "k8s", ignore=shutil.ignore_patterns("certificates"))
    for name in OVERLAYS:
        subprocess.run(
            [sys.executable, *setup_command(KUBERNETES / "overlays" / name)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            check=True,
            capture_output=True,
            timeout=60,
        )
    return folder / "k8s"


def build(folder: Path) -> list[Object]:
    """Return the objects of a Kustomize folder."""
    made = subprocess.run(
        ["kubectl", "kustomize", str(folder)], check=True, stdout=subprocess.PIPE, timeout=60
    )
    return list(yaml.safe_load_all(made.stdout))


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by name."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[Pod]:
    """Yield the pods that the objects make."""
    for found in objects:
        if found["kind"] == "Pod":
            yield _pod(found, found, 1)
        elif "template" in found.get("spec", {}):
            yield _pod(found, found["spec"]["template"], found["spec"].get("replicas", 1))


def _pod(owner: Object, template: Object, replicas: int) -> Pod:
    claims = tuple(claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", ()))
    labels = template["metadata"]["labels"]
    return Pod(owner["metadata"]["name"], owner["kind"], replicas, labels, template["spec"], claims)


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Tell whether a selector's ``matchLabels`` select labels."""
    assert selector.keys() <= {"matchLabels"}, "other selectors are not known here"
    return dict(selector.get("matchLabels", {})).items() <= dict(labels).items()


def allowed(policies: list[Object], source: Labels, target: Labels, port: int) -> bool:
    """Tell whether network policies let a pod open a TCP connection to another one of its namespace."""
    leaves = _passes(policies, "Egress", source, target, port)
    return leaves and _passes(policies, "Ingress", target, source, port)


def _passes(policies: list[Object], direction: str, one: Labels, other: Labels, port: int) -> bool:
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    about = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], one)
    ]
    return not about or any(
        {"protocol": "TCP", "port": port} in rule["ports"]
        and any(_is_peer(peer, other) for peer in rule[peers])
        for policy in about
        for rule in policy.get(rules, ())
    )


def _is_peer(peer: Mapping[str, Any], labels: Labels) -> bool:
    return peer.keys() == {"podSelector"} and selects(peer["podSelector"], labels)


def contents(objects: list[Object], kind: str, name: str) -> dict[str, bytes]:
    """Return the entries of a ConfigMap or Secret."""
    data: Mapping[str, str] = of_kind(objects, kind)[name]["data"]
    decode = base64.b64decode if kind == "Secret" else str.encode
    return {key: decode(text) for key, text in data.items()}


def generated(objects: list[Object], kind: str, start: str) -> dict[str, bytes]:
    """Return the entries of the ConfigMap or Secret whose name, but for a hash at its end, is this."""
    (name,) = [name for name in of_kind(objects, kind) if name.startswith(start)]
    return contents(objects, kind, name)


def node_sets(objects: list[Object]) -> list[Pod]:
    """Return the sets of SuperNodes."""
    return [pod for pod in pods(objects) if pod.labels["app.kubernetes.io/component"] == "supernode"]


def parsed(command: list[str]) -> argparse.Namespace:
    """Parse a command as the program that it starts does."""
    match command:
        case ["sh", "-c", script]:
            return parsed(shlex.split(script.removeprefix("exec ")))
        case ["python", "-m", module, *arguments]:
            parser = import_module(module).parser()
        case ["flower-superlink", *arguments]:
            parser = import_module("flwr.superlink.cli.flower_superlink")._parse_args_run_superlink()
        case ["flower-superexec", *arguments]:
            parser = import_module("flwr.supercore.cli.flower_superexec")._parse_args()
        case _:
            raise AssertionError(f"no parser is known here for {command}")
    return parser.parse_args(arguments)


def roles(objects: list[Object]) -> Iterator[tuple[Pod, Mapping[str, Any], argparse.Namespace]]:
    """Yield the containers that run a role of the federation, each with its pod and its parsed command."""
    for pod in pods(objects):
        if pod.owner != "loader":
            for container in pod.spec["containers"]:
                yield pod, container, parsed(container["command"])


def port_of(address: str) -> int:
    """Return the port of HOST:PORT."""
    return int(address.rpartition(":")[2])
