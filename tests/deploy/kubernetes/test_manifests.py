"""The manifests as files and as objects: valid, whole, edited in one place, and without secrets in git."""

import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from tests.support.manifests import (
    KUBERNETES,
    LOADER,
    OVERLAYS,
    PROJECT,
    build,
    node_sets,
    of_kind,
    pods,
    setup_command,
)

GUIDE = (PROJECT / "docs/kubernetes.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_every_object_is_valid(objects, version):
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)


def test_no_object_is_there_twice(objects):
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names))


def test_a_file_holds_one_object():
    for file in KUBERNETES.rglob("*.yaml"):
        assert len(list(yaml.safe_load_all(file.read_text()))) == 1, file


def test_what_is_referred_to_is_in_the_build(overlay):
    for pod in pods(overlay):
        for volume in pod.spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in of_kind(overlay, "ConfigMap")
            if "secret" in volume:
                assert volume["secret"]["secretName"] in of_kind(overlay, "Secret")


def test_the_loader_uses_a_claim_that_a_node_has(builds):
    (volume,) = LOADER[0]["spec"]["volumes"]
    claims = {
        f"{claim}-{name}"
        for pod in node_sets(builds["cluster"])
        for name in pod.names()
        for claim in pod.claims
    }
    assert volume["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_image_is_one_edit(tree, name, tmp_path):
    copy = shutil.copytree(tree, tmp_path / "k8s")
    file = copy / "overlays" / name / "kustomization.yaml"
    text = (
        file.read_text()
        .replace("newName: motley", "newName: hub/other")
        .replace("newTag: 0.1.0", "newTag: v2")
    )
    file.write_text(text)
    images = {container["image"] for pod in pods(build(file.parent)) for container in pod.containers()}
    assert images == {"hub/other:v2"}


def test_the_loader_has_the_image_of_the_overlays(builds):
    images = {
        container["image"]
        for name in ("loader", *OVERLAYS)
        for pod in pods(builds[name])
        for container in pod.containers()
    }
    assert len(images) == 1


def test_certificates_beside_an_overlay_stay_out_of_git():
    folders = [f"k8s/overlays/{name}/certificates/server.key" for name in OVERLAYS]
    command = ["git", "check-ignore", *folders]
    ignored = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if ignored.returncode == 128:
        pytest.skip("this is no git checkout")
    assert ignored.stdout.split() == folders


def test_files_that_the_guide_names_exist():
    paths = {path for path in re.findall(r"k8s/[\w./-]*\w", GUIDE) if "certificates" not in path}
    assert paths >= {"k8s/loader.yaml", *(f"k8s/overlays/{name}" for name in OVERLAYS)}
    for path in paths:
        assert (PROJECT / path).exists(), path


def test_the_guides_certificates_are_the_overlays():
    assert " ".join(setup_command(KUBERNETES / "overlays/cluster")) in " ".join(
        GUIDE.replace("\\\n", " ").split()
    )
