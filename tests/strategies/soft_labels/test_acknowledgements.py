import numpy as np
import pytest

from strategies.soft_labels.acknowledgements import Acknowledgements
from strategies.soft_labels.cache import LabelCache, LabelsInUse

POOL = 6
WIDTH = 2
NOTHING = bytes(8)


class Server:
    """Labels by sample and version, and what clients have acknowledged of them."""

    def __init__(self):
        self.cache = LabelCache(POOL, WIDTH)
        self.stored = np.zeros(POOL, dtype=np.int32)
        self.beliefs = Acknowledgements(POOL)

    def store(self, version, *samples):
        indices, versions = np.array(samples), np.full(len(samples), version, dtype=np.int32)
        self.cache.put(indices, versions, np.full((len(samples), WIDTH), version, dtype=np.uint8))
        self.stored[indices] = version

    def deliver(self, round, *samples, client="ada"):
        in_use = LabelsInUse(np.array(samples), self.cache.versions[list(samples)])
        return self.beliefs.deliver(client, round, in_use, self.cache, self.stored)

    def digest_of(self, *samples):
        """Return the digest of a cache with the present labels of some samples."""
        held = LabelCache(POOL, WIDTH)
        indices = np.array(samples, dtype=np.int64)
        held.put(indices, self.cache.versions[indices], self.cache.rows[indices])
        return held.digest()

    def acknowledge(self, round, digest, client="ada", lost=False):
        return self.beliefs.acknowledge(client, round, digest, lost)


@pytest.fixture
def server():
    server = Server()
    server.store(1, 0, 1, 2)
    return server


def test_a_client_never_heard_of_is_sent_every_label_and_nothing_explicit(server):
    delivery = server.deliver(2, 0, 2)

    assert (delivery.sent.tolist(), delivery.base, delivery.explicit) == ([0, 1], NOTHING, False)


def test_a_label_is_not_sent_again_once_it_is_acknowledged(server):
    server.deliver(2, 0, 2)
    assert server.acknowledge(2, server.digest_of(0, 2))

    delivery = server.deliver(3, 0, 1, 2)

    assert delivery.sent.tolist() == [1]
    assert delivery.base == server.digest_of(0, 2)


def test_a_label_is_sent_again_until_it_is_acknowledged(server):
    server.deliver(2, 0, 2)

    assert server.deliver(3, 0, 1, 2).sent.tolist() == [0, 1, 2]


def test_a_newer_version_is_sent(server):
    server.deliver(2, 0, 1)
    server.acknowledge(2, server.digest_of(0, 1))
    server.store(2, 1)

    assert server.deliver(3, 0, 1).sent.tolist() == [1]


def test_what_is_stored_no_more_is_expected_to_be_dropped(server):
    server.deliver(2, 0, 1)
    server.acknowledge(2, server.digest_of(0, 1))
    server.stored[1] = 0

    server.deliver(3, 0)

    assert server.acknowledge(3, server.digest_of(0))
    assert server.deliver(4, 0).base == server.digest_of(0)


def test_clients_are_believed_apart(server):
    server.deliver(2, 0, 1, client="ada")
    server.acknowledge(2, server.digest_of(0, 1), client="ada")

    assert server.deliver(3, 0, 1, client="ben").sent.tolist() == [0, 1]


@pytest.mark.parametrize(("holds", "lost"), [([], False), ([0], False), ([0, 1], True)])
def test_a_client_that_is_not_as_expected_starts_anew_until_it_acknowledges(server, holds, lost):
    server.deliver(2, 0, 1)
    assert not server.acknowledge(2, server.digest_of(*holds), lost=lost)

    for round in (3, 4):
        delivery = server.deliver(round, 0, 1)
        assert (delivery.sent.tolist(), delivery.base, delivery.explicit) == ([0, 1], NOTHING, True)
    assert server.acknowledge(4, server.digest_of(0, 1))
    assert not server.deliver(5, 0, 1).explicit


def test_a_reply_overtaken_by_a_later_one_changes_nothing(server):
    server.deliver(2, 0, 1)
    server.deliver(3, 1, 2)
    server.acknowledge(3, server.digest_of(1, 2))

    assert server.acknowledge(2, server.digest_of(0, 1))
    assert server.deliver(4, 0, 1, 2).sent.tolist() == [0]


@pytest.mark.parametrize("holds", [[], [0, 1]])
def test_a_second_reply_changes_nothing(server, holds):
    server.deliver(2, 0, 1)
    server.acknowledge(2, server.digest_of(0, 1))

    assert server.acknowledge(2, server.digest_of(*holds))
    assert server.deliver(3, 0, 1).sent.tolist() == []


def test_a_reply_to_a_message_from_before_the_client_was_forgotten_changes_nothing(server):
    server.deliver(2, 0, 1)
    server.beliefs.forget("ada")

    assert server.acknowledge(2, server.digest_of(0, 1))
    assert server.deliver(3, 0, 1).explicit


def test_a_reply_that_comes_many_rounds_late_still_acknowledges(server):
    server.deliver(2, 0, 1)

    assert server.acknowledge(2, server.digest_of(0, 1))
    assert server.deliver(9, 0, 1).sent.tolist() == []


def test_a_reply_to_a_message_that_another_followed_changes_nothing(server):
    server.deliver(2, 0, 1)
    server.deliver(3, 0, 1)

    assert server.acknowledge(2, server.digest_of(0, 1))
    assert server.deliver(4, 0, 1).sent.tolist() == [0, 1]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_node_that_kept_what_is_believed_goes_on(server, kept):
    server.deliver(2, 0, 1)
    server.acknowledge(2, server.digest_of(0, 1))
    digests = [server.digest_of(2), server.digest_of(1)]
    digests[kept] = server.digest_of(0, 1)

    assert server.beliefs.greet("ada", digests)
    assert server.deliver(3, 0, 1, 2).sent.tolist() == [2]


def test_a_node_that_kept_nothing_of_what_is_believed_starts_anew(server):
    server.deliver(2, 0, 1)
    server.acknowledge(2, server.digest_of(0, 1))

    assert not server.beliefs.greet("ada", [NOTHING])
    assert server.deliver(3, 0, 1, 2).explicit


def test_beliefs_go_on_from_a_checkpoint(server):
    for client, kept in (("ada", [0, 1]), ("ben", [1])):
        server.deliver(2, *kept, client=client)
        server.acknowledge(2, server.digest_of(*kept), client=client)
    server.beliefs.forget("ben")
    resumed = Server()
    resumed.store(1, 0, 1, 2)

    resumed.beliefs.load_state(*server.beliefs.state())

    for client in ("ada", "ben", "cem"):
        ours, theirs = (half.deliver(3, 0, 1, 2, client=client) for half in (server, resumed))
        assert np.array_equal(ours.sent, theirs.sent)
        assert (ours.base, ours.explicit) == (theirs.base, theirs.explicit)
