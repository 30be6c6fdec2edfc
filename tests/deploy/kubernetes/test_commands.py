"""Every command is one that its program takes, and what it names is there."""

from cryptography import x509

from tests.support.manifests import contents, generated, port_of, roles

UNITS = {"Mi": 2**20, "Gi": 2**30}


def is_there(objects, pod, container, path):
    """Tell whether a path lies on a mount; if that is a ConfigMap or Secret, whether it is an entry there."""
    mounts = [mount for mount in container["volumeMounts"] if f"{path}/".startswith(mount["mountPath"] + "/")]
    if not mounts:
        return False
    mount = max(mounts, key=lambda mount: len(mount["mountPath"]))
    name = path.removeprefix(mount["mountPath"]).strip("/")
    volume = pod.volume(mount["name"])
    if "subPathExpr" in mount:
        return not name  # the file itself; which entries there are, another test asks
    if "configMap" in volume:
        return name in contents(objects, "ConfigMap", volume["configMap"]["name"])
    if "secret" in volume:
        return name in contents(objects, "Secret", volume["secret"]["secretName"])
    return True


def test_files_they_name_are_mounted(overlay):
    for pod, container, arguments in roles(overlay):
        for value in map(str, vars(arguments).values()):
            assert not value.startswith("/") or is_there(overlay, pod, container, value), (
                f"{pod.owner}: {value}"
            )


def test_containers_of_a_pod_fit_together(objects):
    found = {(pod.owner, container["name"]): arguments for pod, container, arguments in roles(objects)}
    for (owner, name), arguments in found.items():
        if name == "clientapp":
            node = found[owner, "supernode"]
            assert arguments.runtime_api_address == f"{node.host}:{node.port}"
            assert node.host == "127.0.0.1", "plain HTTP stays in the pod"
            assert str(arguments.superexec_auth_secret_file) == node.superexec_auth_secret_file
        if name == "serverapp":
            superlink = found[owner, "superlink"]
            assert arguments.runtime_api_address == f"localhost:{superlink.port}"
            assert arguments.superexec_auth_secret_file == superlink.superexec_auth_secret_file


def test_what_they_call_listens(overlay):
    superlink, ports = next(
        (arguments, {port["name"]: port["containerPort"] for port in container["ports"]})
        for _, container, arguments in roles(overlay)
        if container["name"] == "superlink"
    )
    assert ports == {"api": superlink.port, "fleet": port_of(superlink.fleet_api_address)}
    for _, container, arguments in roles(overlay):
        if container["name"] == "supernode":
            assert arguments.superlink == f"superlink:{ports['fleet']}"
        if container["name"] == "registration":
            assert arguments.superlink == f"superlink:{ports['api']}"


def test_the_certificate_holds_every_name_the_superlink_is_called_by(overlay):
    pem = generated(overlay, "Secret", "superlink-certificate")["server.pem"]
    extensions = x509.load_pem_x509_certificate(pem).extensions
    held = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"superlink", "localhost"} <= set(held.get_values_for_type(x509.DNSName))
    assert {str(address) for address in held.get_values_for_type(x509.IPAddress)} == {"127.0.0.1"}


def test_only_who_holds_a_registered_key_is_let_in_and_all_is_encrypted(objects):
    for _, container, arguments in roles(objects):
        if container["name"] == "superlink":
            assert arguments.enable_supernode_auth
            assert arguments.ssl_certfile
        if container["name"] != "clientapp":  # which speaks to its own pod only
            assert not arguments.insecure


def test_probes_ask_what_answers(objects):
    for _, container, arguments in roles(objects):
        probes = [value for key, value in container.items() if key.endswith("Probe")]
        assert probes or container["name"] == "registration"
        for probe in probes:
            if "grpc" in probe:
                # the kubelet asks from outside the pod
                assert arguments.health_server_address == f"0.0.0.0:{probe['grpc']['port']}"
            else:
                assert probe["exec"]["command"][3] == str(arguments.alive_file)
                assert probe["timeoutSeconds"] >= 5, "Python has to start"


def test_probes_are_commands_that_their_program_takes(objects):
    from deploy import alive

    for _, container, _ in roles(objects):
        for probe in (value for key, value in container.items() if key.endswith("Probe")):
            if "exec" in probe:
                assert probe["exec"]["command"][:3] == ["python", "-m", "deploy.alive"]
                assert alive.parser().parse_args(probe["exec"]["command"][3:])


def test_a_launcher_ends_a_greedy_process_before_the_kernel_ends_both(objects):
    for _, container, arguments in roles(objects):
        if container["name"] == "clientapp":
            limit = container["resources"]["limits"]["memory"]
            room = int(limit[:-2]) * UNITS[limit[-2:]] - arguments.memory_limit * 1e9
            assert 0.7e9 <= room <= 2.5e9, "the launcher itself takes 0.6 GB"
