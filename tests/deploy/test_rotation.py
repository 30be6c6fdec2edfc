"""Real SuperLinks and SuperNodes with the files that are made, and how each is replaced while they work."""

import shutil

import pytest

from deploy import certificates
from tests.deploy.secured import JOINED, make_certificates, secured

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
REFUSED, UNTRUSTED = "Failed to activate SuperNode", "CERTIFICATE_VERIFY_FAILED"


@pytest.fixture
def made(tmp_path):
    return make_certificates(tmp_path / "made")


def renew(command, made, *flags):
    certificates.main([command, str(made), *flags])


def test_a_registered_node_joins_and_others_do_not(tmp_path, made):
    other = make_certificates(tmp_path / "other")
    with secured(tmp_path / "flower", made) as flower:
        flower.start_superlink()
        flower.register(flower.public_key("hospital-a"))
        _, registered = flower.start_supernode("hospital-a")
        stranger, refused = flower.start_supernode("hospital-b")
        _, untrusting = flower.start_supernode("hospital-a", trusted=other / "authority/ca.pem")
        flower.wait_for_line(registered, JOINED)
        flower.wait_for_line(refused, REFUSED)
        flower.wait_for_line(untrusting, UNTRUSTED)
        assert stranger.wait(20) != 0
        assert JOINED not in flower.log(refused) + flower.log(untrusting)


def test_a_node_goes_on_by_itself_when_the_superlink_comes_back_with_a_new_certificate(tmp_path, made):
    with secured(tmp_path / "flower", made) as flower:
        superlink = flower.start_superlink()
        flower.register(flower.public_key("hospital-a"))
        node, node_id = flower.join("hospital-a")
        flower.end(superlink)
        renew("renew-server", made, "--days", "30")
        flower.start_superlink()
        flower.wait_for_request(node_id)
        assert node.poll() is None


def test_a_nodes_key_is_replaced_by_register_switch_unregister(tmp_path, made):
    with secured(tmp_path / "flower", made) as flower:
        flower.start_superlink()
        flower.register(flower.public_key("hospital-a"))
        node, old = flower.join("hospital-a")
        shutil.copytree(made / "nodes/hospital-a", made / "nodes/stolen")
        renew("renew-node", made, "--nodes", "hospital-a")
        flower.register(flower.public_key("hospital-a"))
        flower.end(node)
        _, new = flower.join("hospital-a")
        assert new != old
        flower.register(*(made / "retired").glob("hospital-a-*/node.pub"), flags=["--unregister"])
        _, log = flower.start_supernode("stolen")
        flower.wait_for_line(log, REFUSED)


def test_the_authority_is_replaced_while_nodes_are_told_one_by_one(tmp_path, made):
    with secured(tmp_path / "flower", made) as flower:
        superlink = flower.start_superlink()
        flower.register(flower.public_key("hospital-a"), flower.public_key("hospital-b"))
        untold, _ = flower.join("hospital-b")
        renew("renew-authority", made)
        told, first = flower.join("hospital-a")
        flower.end(untold)
        _, second = flower.join("hospital-b")
        flower.end(superlink)
        renew("renew-server", made)
        flower.start_superlink()
        flower.wait_for_request(first, second)
        renew("retire-authority", made)
        flower.end(told)
        flower.join("hospital-a")
