"""What docker-compose.yaml promises: who holds which secret, who reaches whom, nothing runs as root."""

import re
from pathlib import Path

import pytest

from tests.deploy.composition import HEALTHY, Composition, Service
from tests.support.processes import PROJECT

pytestmark = pytest.mark.slow

SITES = ("a", "b", "c", "d", "gpu")
ONE_SHOT = {"certificates", "registration"}


@pytest.fixture(scope="module")
def compose(tmp_path_factory) -> Composition:
    return Composition(tmp_path_factory.mktemp("compose"))


@pytest.fixture(scope="module")
def services(compose) -> dict[str, Service]:
    return compose.services


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, Service]:
    """Provide the services with variables set."""
    variables = {"DATA_B": "/srv/xrays", "PUBLIC": "./pool", "FLEET": "0.0.0.0:9092"}
    named = {f"MOTLEY_{name}": value for name, value in variables.items()}
    return Composition(tmp_path_factory.mktemp("told"), **named).services


def holders(services: dict[str, Service], *files: str) -> dict[str, list[str]]:
    """Return who mounts each of the files, or a folder it lies in."""
    return {
        file: [
            service.name
            for service in services.values()
            for mount in service.mounts
            if Path("certificates", file).is_relative_to(mount.source)
        ]
        for file in files
    }


def test_there_is_a_pair_for_each_site(services):
    pairs = {f"{role}-{site}" for role in ("supernode", "clientapp") for site in SITES}
    assert set(services) == pairs | ONE_SHOT | {"superlink", "serverapp"}
    behind_profile = {name for name, service in services.items() if service.definition.get("profiles")}
    assert behind_profile == {"supernode-gpu", "clientapp-gpu"}


def test_every_service_is_shut_in(services):
    for service in services.values():
        definition = service.definition
        assert definition["read_only"] is True, service.name
        assert definition["cap_drop"] == ["ALL"], service.name
        assert definition["security_opt"] == ["no-new-privileges:true"], service.name
        assert definition["init"] is True, service.name
        assert not {"privileged", "pid", "ipc", "devices", "userns_mode", "extra_hosts"} & definition.keys()


def test_only_the_maker_of_certificates_is_root_and_it_reaches_nobody(services):
    assert {name for name, service in services.items() if service.definition["user"] != "10001:10001"} == {
        "certificates"
    }
    assert {name for name, service in services.items() if "cap_add" in service.definition} == {"certificates"}
    assert set(services["certificates"].definition["cap_add"]) == {"CHOWN", "DAC_OVERRIDE"}
    assert services["certificates"].definition["network_mode"] == "none"


def test_all_run_one_image_which_one_service_builds(services):
    assert {service.definition["image"] for service in services.values()} == {"motley"}
    assert [name for name, service in services.items() if "build" in service.definition] == ["certificates"]


def test_secrets_come_in_files_only(services):
    for service in services.values():
        assert not {"environment", "env_file", "secrets", "configs"} & service.definition.keys(), service.name
        for mount in service.mounts:
            assert (
                mount.read_only or not mount.source.startswith((".", "/")) or service.name == "certificates"
            )


def test_each_private_key_is_held_by_one_service_beside_their_maker(services):
    nodes = [f"nodes/hospital-{site}/node.key" for site in SITES]
    held = holders(services, "authority/ca.key", "superlink/server.key", *nodes)
    expected = [[], ["superlink"], *([f"supernode-{site}"] for site in SITES)]
    assert list(held.values()) == [["certificates", *names] for names in expected]


def test_a_site_shares_its_secret_with_nobody(services):
    held = holders(
        services, "superlink/executor.secret", *(f"nodes/hospital-{site}/executor.secret" for site in SITES)
    )
    pairs = [{"superlink", "serverapp"}, *({f"supernode-{site}", f"clientapp-{site}"} for site in SITES)]
    assert [set(names) for names in held.values()] == [{"certificates", *pair} for pair in pairs]


def test_what_runs_code_of_an_app_has_no_way_out(compose):
    internal = {name for name, network in compose.networks.items() if (network or {}).get("internal")}
    assert internal == {"coordination", *(f"site-{site}" for site in SITES)}
    for name, service in compose.services.items():
        if name.startswith(("clientapp", "serverapp")):
            assert set(service.networks) <= internal, name


def test_a_sites_network_joins_its_pair_and_nobody_else(services):
    for site in SITES:
        joined = {name for name, service in services.items() if f"site-{site}" in service.networks}
        assert joined == {f"supernode-{site}", f"clientapp-{site}"}


def test_a_supernodes_launcher_interface_listens_on_its_sites_network_only(compose):
    for site in SITES:
        supernode = compose.services[f"supernode-{site}"]
        assert supernode.networks == {
            "federation": {supernode.name},
            f"site-{site}": {supernode.name, "runtime"},
        }
        assert "--host=runtime" in supernode.command
        assert "--runtime-api-address=runtime:8001" in compose.services[f"clientapp-{site}"].command


def test_data_and_state_lie_with_one_site_each(services):
    for site in SITES:
        for kind, target in (("data", "/data"), ("state", "/state")):
            found = {
                (name, mount.target)
                for name, service in services.items()
                for mount in service.mounts
                if mount.source == f"{kind}-{site}"
            }
            assert found == {(f"clientapp-{site}", target)}


def test_data_is_read_only_and_may_be_any_folder(told):
    mounts = {mount.target: mount for mount in told["clientapp-b"].mounts}
    assert (mounts["/data"].source, mounts["/data"].read_only) == ("/srv/xrays", True)
    assert (mounts["/public"].source, mounts["/public"].read_only) == ("./pool", True)


def test_only_the_superlink_is_reachable_and_from_this_machine_unless_told(services, told):
    published = {name: service.definition.get("ports", []) for name, service in services.items()}
    assert {name for name, ports in published.items() if ports} == {"superlink"}
    assert published["superlink"] == ["127.0.0.1:8000:8000", "127.0.0.1:9092:9092"]
    assert told["superlink"].definition["ports"] == ["127.0.0.1:8000:8000", "0.0.0.0:9092:9092"]


def test_whoever_is_waited_for_to_be_healthy_has_a_health_check(services):
    for service in services.values():
        assert bool(service.health_check) == (service.name not in ONE_SHOT), service.name
        for name, condition in service.waits_for.items():
            assert (condition == HEALTHY) == bool(services[name].health_check), (service.name, name)


def test_services_start_in_an_order_and_come_back_unless_they_have_ended(compose):
    order = [service.name for service in compose.in_order(profile="gpu")]
    assert order.index("certificates") < order.index("superlink") < order.index("registration")
    assert order.index("registration") < order.index("supernode-a") < order.index("clientapp-a")
    for service in compose.services.values():
        assert service.definition["restart"] == ("no" if service.name in ONE_SHOT else "unless-stopped")


def test_every_node_has_a_certificate_and_is_registered(services):
    names = {f"hospital-{site}" for site in SITES}
    assert f"--nodes={','.join(sorted(names))}" in services["certificates"].command
    registered = {
        word.split("/")[2] for word in services["registration"].command if word.endswith("node.pub")
    }
    assert registered == names
    for site in SITES:
        assert f"client-name='hospital-{site}'" in services[f"supernode-{site}"].command[-1]


def test_tls_and_authentication_are_on(services):
    superlink = services["superlink"].command
    assert "--enable-supernode-auth" in superlink
    assert not [
        word
        for service in (services["superlink"], services["serverapp"])
        for word in service.command
        if "insecure" in word
    ]
    for site in SITES:
        command = services[f"supernode-{site}"].command
        assert "--root-certificates=/certificates/ca.pem" in command
        assert not [word for word in command if "insecure" in word]


def test_only_the_gpu_site_asks_for_a_gpu(services):
    asking = {name for name, service in services.items() if "deploy" in service.definition}
    assert asking == {"clientapp-gpu"}
    device = services["clientapp-gpu"].definition["deploy"]["resources"]["reservations"]["devices"]
    assert device == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}]


def test_variables_of_the_page_are_those_of_the_file():
    pattern = re.compile(r"MOTLEY_[A-Z_]+")
    in_file = set(pattern.findall((PROJECT / "docker-compose.yaml").read_text()))
    in_page = set(pattern.findall((PROJECT / "docs" / "containers.md").read_text()))
    sites = {f"MOTLEY_{what}_{site.upper()}" for what in ("NODE", "DATA") for site in SITES}
    assert sites <= in_file
    assert in_file - sites <= in_page
    assert in_page <= in_file


def test_the_context_of_the_build_is_a_list_of_what_is_allowed():
    lines = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == {"LICENSE", "pyproject.toml", "requirements.lock", "deploy", "docker/roles.txt"}


def test_the_image_has_the_projects_version():
    project = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    image = re.search(r'image\.version="(.+)"', (PROJECT / "docker" / "Dockerfile").read_text())
    assert project
    assert image
    assert image[1] == project[1]
