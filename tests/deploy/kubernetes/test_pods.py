"""Pods have no rights, bounds on what they take, and only what they need to see."""

import subprocess

from tests.support.manifests import APP_CODE, node_sets, pods


def test_pods_run_without_rights(objects):
    for pod in pods(objects):
        assert {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,  # else they could not read their own keys
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items() <= pod.spec["securityContext"].items()
        assert pod.spec["automountServiceAccountToken"] is False
        assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not pod.spec.get("shareProcessNamespace")
        assert not any("hostPath" in volume for volume in pod.spec["volumes"])


def test_containers_have_no_rights_and_bounds(objects):
    for pod in pods(objects):
        for container in pod.containers():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for amounts in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][amounts].keys()


def test_every_mount_has_a_volume_and_every_volume_a_bound(objects):
    for pod in pods(objects):
        volumes = {volume["name"] for volume in pod.spec["volumes"]} | set(pod.claims)
        assert {
            mount["name"] for container in pod.containers() for mount in container["volumeMounts"]
        } == volumes
        for volume in pod.spec["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""})
        for container in pod.containers():
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(paths) == len(set(paths))


def test_code_of_the_app_meets_no_key_and_cannot_change_data(objects):
    for pod in pods(objects):
        for container in pod.containers():
            for mount in container["volumeMounts"]:
                if "secret" in pod.volume(mount["name"]):
                    assert container["name"] not in APP_CODE
                    assert mount["readOnly"]
                if container["name"] in APP_CODE and mount["mountPath"] in {"/data", "/public"}:
                    assert mount["readOnly"]


def test_a_node_sees_its_own_key_and_node_config_only(objects):
    for pod in node_sets(objects):
        container = pod.container("supernode")
        own_name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        assert own_name in container["env"]
        seen = {mount["name"]: mount.get("subPathExpr") for mount in container["volumeMounts"]}
        assert seen["keys"] == seen["configs"] == "$(POD_NAME)"


def test_the_secret_between_two_containers_is_made_anew_for_each_pod(objects, tmp_path):
    for pod in pods(objects):
        for container in pod.spec.get("initContainers", ()):
            script = container["command"][2].replace("/executor/", f"{tmp_path}/")
            subprocess.run(["sh", "-c", script], check=True)
            made = tmp_path / "executor.secret"
            assert len(made.read_bytes()) == 32
            assert made.stat().st_mode & 0o777 == 0o600
            assert pod.volume("executor")["emptyDir"]["medium"] == "Memory"


def test_state_outlives_a_node(objects):
    for pod in node_sets(objects):
        assert {"name": "state", "mountPath": "/state"} in pod.container("clientapp")["volumeMounts"]
        assert "state" in pod.claims


def test_runs_without_an_output_dir_land_on_the_claim_too(objects):
    for pod in pods(objects):
        if pod.owner == "superlink":
            mounts = pod.container("serverapp")["volumeMounts"]
            paths = {mount["mountPath"] for mount in mounts if mount["name"] == "runs"}
            assert paths == {"/runs", "/state/motley/runs"}
            assert "runs" in pod.claims


def test_torch_uses_the_cores_it_has(objects):
    for pod in pods(objects):
        for container in pod.containers():
            if container["name"] in APP_CODE:
                (threads,) = [entry for entry in container["env"] if entry["name"] == "OMP_NUM_THREADS"]
                assert threads["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
