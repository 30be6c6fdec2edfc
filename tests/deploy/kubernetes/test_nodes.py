"""Each overlay's list of nodes: who they are, what they hold, that it agrees with the pods."""

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from flwr.common.config import parse_config_args

from deploy.supernode import node_config
from protocol.settings import NodeSettings
from tests.support.manifests import contents, generated, node_sets, of_kind


def openssh(public_key):
    return public_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def registered_keys(objects):
    return {
        openssh(load_ssh_public_key(text)) for text in generated(objects, "ConfigMap", "public-keys").values()
    }


def node_settings(objects):
    """Return each pod's settings by its name."""
    texts = contents(objects, "ConfigMap", "supernodes") if node_sets(objects) else {}
    return {
        name: NodeSettings.parse(parse_config_args([node_config(text.decode())]))
        for name, text in texts.items()
    }


def test_every_pod_has_a_node_config_and_a_key_and_none_is_left_over(overlay):
    names = {name for nodes in node_sets(overlay) for name in nodes.names()}
    if names:
        assert contents(overlay, "ConfigMap", "supernodes").keys() == names
        assert contents(overlay, "Secret", "supernode-keys").keys() == names
    else:  # all its nodes are outside, and so are their keys
        assert (
            not {"supernodes", "supernode-keys"}
            & (of_kind(overlay, "ConfigMap") | of_kind(overlay, "Secret")).keys()
        )


def test_the_keys_of_all_nodes_are_registered(overlay):
    keys = contents(overlay, "Secret", "supernode-keys").values() if node_sets(overlay) else ()
    held = {openssh(load_ssh_private_key(key, None).public_key()) for key in keys}
    assert len(held) == len(keys)
    assert held == registered_keys(overlay) or (not held and registered_keys(overlay))


def test_node_configs_are_valid_and_tell_the_nodes_apart(overlay):
    nodes = list(node_settings(overlay).values())
    assert len({node.client_name for node in nodes}) == len(nodes)
    assert [node.partition_id for node in nodes] == list(range(len(nodes)))
    assert {node.num_partitions for node in nodes} <= {len(nodes)}
    assert {node.state_dir for node in nodes} <= {"/state/clients"}


def test_nodes_are_unequal(overlay):
    nodes = list(node_settings(overlay).values())
    assert not nodes or len({(node.model, node.level) for node in nodes}) > 1


def test_nodes_that_are_told_to_use_a_gpu_have_one_and_no_others(overlay):
    settings = node_settings(overlay)
    for pod in node_sets(overlay):
        gpus = pod.container("clientapp")["resources"]["limits"].get("nvidia.com/gpu", 0)
        assert {settings[name].device == "cuda:0" for name in pod.names()} == {gpus == 1}
        assert gpus in {0, 1}
