"""A run with one fault after another, beside the same run undisturbed; every method goes through it."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from tests.faults.conftest import DISK, delay_of, orders_of, state_of
from tests.faults.settings import CLIENTS, HOSTILE, ONE_POINT, undisturbed
from tests.faults.story import Line, Story
from tests.support.process_table import kill, peak_memory
from tests.support.sites import Sites, await_result

ALL = len(CLIENTS)
SLOW_KILOBITS = 256
LOST = 0.05
DELAY_SECONDS = 0.05
MEGABYTE = 10**6
SERVER_BOUND = 700 * MEGABYTE
"""Memory that a reply of a gigabyte may cost the ServerApp."""
UNREADABLE = "refused its reply: it cannot be read"
OFFLINE = ("failed to report a heartbeat", "its node went offline")


class DisturbedRun:
    """The chapters of a run, in their order; each leaves the federation whole.

    Those of a method's own follow, the end last: pytest takes a base class's tests first.
    """

    settings: ClassVar[Mapping[str, str | int | float]]
    tampered: ClassVar[Mapping[str, str]]
    """What the hostile node is told to send, and how the reason begins for which it is refused."""

    def test_a_killed_clientapp_costs_its_reply_of_that_round(self, story):
        since = story.done()
        with story.timed("ClientApp killed: noticed"):
            kill(await_result(lambda: story.at_work("hospital-c"), 60, "a ClientApp at work"))
            reason = story.fails("hospital-c", since)
        assert "killed by SIGKILL" in reason
        self.only_failed(story, since, "hospital-c", rounds=1)

    def test_a_full_disk_is_named_and_the_client_is_back_when_there_is_space(self, story):
        filler = fill(state_of(story.federation, DISK) / "filler")
        try:
            self.keeps_state(story)
        finally:
            filler.unlink()
        with story.timed("disk full: back"):
            story.is_whole(ALL)
        assert f"{DISK}: its cache" not in story.log(), "what was written before is whole"

    def test_tampered_replies_are_refused_with_a_reason(self, story):
        for order, expected in self.tampered.items():
            since = story.done()
            orders_of(story.federation).write_text(order)
            with story.timed(f"reply with {order}: noticed"):
                reason = story.fails(HOSTILE, since)
            story.keep(f"reply with {order}: said", reason)
            assert reason.startswith(expected), (order, reason)
            self.only_failed(story, since, HOSTILE, rounds=1)

    def test_a_replayed_reply_of_an_earlier_round_is_refused(self, story):
        since = story.done()
        orders_of(story.federation).write_text("replay")
        reason = story.fails(HOSTILE, since)
        story.keep("replayed reply: said", reason)
        assert reason.startswith("refused: it answers round ")
        self.only_failed(story, since, HOSTILE, rounds=1)

    def test_a_reply_of_a_gigabyte_is_refused_and_costs_the_server_little(self, story):
        processes, server, since = story.federation.processes, story.federation.server_app(), story.done()
        assert server is not None
        watched = {"ServerApp": server, "SuperLink": processes.pid("superlink")}
        before = {name: peak_memory(pid) for name, pid in watched.items()}
        orders_of(story.federation).write_text("gigabyte")
        with story.timed("reply of 1 GB: noticed"):
            reason = story.fails(HOSTILE, since)
        story.keep("reply of 1 GB: said", reason)
        after = {name: peak_memory(pid) for name, pid in watched.items()}
        for name, peak in after.items():
            story.keep(f"reply of 1 GB: {name}'s peak memory, MB", peak // MEGABYTE)
            story.keep(f"reply of 1 GB: {name} more than before, MB", (peak - before[name]) // MEGABYTE)
        assert "MB that are allowed" in reason or "round-timeout" in reason
        assert after["ServerApp"] - before["ServerApp"] < SERVER_BOUND
        self.only_failed(story, since, HOSTILE)

    def test_slow_lossy_and_long_lines_make_rounds_longer_and_lose_nothing(self, story):
        since = story.done()
        with hampered(story.federation):
            story.reaches(since + 3)
            lines = story.lines()[since + 1 :]
        story.keep("hampered lines: the longest round", max(sum(line["seconds"].values()) for line in lines))
        assert [line["nodes"]["answered"] for line in lines] == [ALL] * len(lines)

    def test_a_killed_supernode_is_missed_and_takes_its_place_again(self, story):
        processes, since = story.federation.processes, story.done()
        await_result(lambda: story.at_work("hospital-a"), 60, "a message at hospital-a")
        with story.timed("SuperNode killed: back"):
            with story.timed("SuperNode killed: noticed"):
                processes.kill("hospital-a-supernode")
                reason = story.fails("hospital-a", since)
            story.is_whole(ALL)
        story.keep("SuperNode killed: starts", processes.starts("hospital-a-supernode"))
        assert any(words in reason for words in OFFLINE)
        self.only_failed(story, since, "hospital-a")

    def test_a_cut_cable_costs_that_clients_rounds_only(self, story):
        network, processes, since = story.federation.network, story.federation.processes, story.done()
        starts = processes.starts("hospital-c-supernode")
        network.cut("hospital-c")
        with story.timed("cable cut: noticed"):
            reason = story.fails("hospital-c", since)
        noticed = story.done()
        story.reaches(noticed + 3)
        network.mend("hospital-c")
        with story.timed("cable cut: back"):
            story.is_whole(ALL)
        assert any(words in reason for words in OFFLINE)
        assert processes.starts("hospital-c-supernode") == starts, "it reconnects by itself"
        self.only_failed(story, since, "hospital-c")

    def test_a_killed_superlink_holds_up_the_run_and_no_more(self, story):
        processes, server, since = story.federation.processes, story.federation.server_app(), story.done()
        starts = [processes.starts(f"{client}-supernode") for client in CLIENTS]
        await_result(lambda: story.at_work("hospital-a"), 60, "a round in progress")
        with story.timed("SuperLink killed: all at work again"):
            processes.kill("superlink")
            story.is_whole(ALL)
        assert story.federation.server_app() == server, "the run simply goes on"
        assert [processes.starts(f"{client}-supernode") for client in CLIENTS] == starts, (
            "all reconnect by themselves"
        )
        lost = [failure for line in story.lines()[since:] for failure in line["nodes"]["failed"]]
        story.keep("SuperLink killed: replies lost", len(lost))
        assert len(lost) <= ALL, "nothing but replies of the round that was running"

    def test_a_killed_server_goes_on_from_its_checkpoint_with_one_command(self, story):
        folder, before, server = story.folder(), story.done(), story.federation.server_app()
        assert server is not None
        kill(server)
        await_result(lambda: story.federation.server_app() is None, 10, "the end of the ServerApp")
        done = story.checkpoint()
        assert done in (story.done(), story.done() - 1), (
            "the checkpoint is of the last round, or the one before"
        )
        with story.timed("ServerApp killed: next round"):
            story.begin(resume="auto")
            story.reaches(max(before, done) + 2)
        assert story.folder() == folder
        assert f"Resuming after round {done}" in story.log()
        story.is_whole(ALL)

    # --- for the methods -----------------------------------------------------------------------

    def keeps_state(self, story: Story) -> None:
        """See what a client with a full disk does that keeps its state from round to round."""
        since = story.done()
        with story.timed("disk full: noticed"):
            reason = story.fails(DISK, since)
        story.keep("disk full: said", reason)
        assert os.strerror(errno.ENOSPC) in reason
        assert str(state_of(story.federation, DISK)) in reason

    def ends_as_well_as_undisturbed(self, story: Story, folder: Path) -> None:
        """Wait for the end; compare it with that of the same run without faults."""
        rounds = self.settings["num-rounds"]
        expected = undisturbed(self.settings, folder)
        story.reaches(rounds, seconds=300)
        await_result((story.folder() / "summary.txt").exists, 60, "the table")
        lines = story.lines()
        assert [line["round"] for line in lines] == list(range(1, rounds + 1)), "each round once"
        for disturbed, calm in itertools.islice(zip(lines, expected, strict=True), 2):
            assert disturbed["server"] == calm["server"], "both begin alike"
        ended, without = lines[-1]["server"]["accuracy"], expected[-1]["server"]["accuracy"]
        story.keep("accuracy", ended)
        story.keep("accuracy undisturbed", without)
        assert abs(ended - without) <= ONE_POINT
        assert lines[-1]["nodes"]["answered"] == ALL

    def only_failed(self, story: Story, since: int, client: str, rounds: int | None = None) -> None:
        """Wait until all are there; make sure that only one has lost replies since, of so many rounds."""
        story.is_whole(ALL)
        failed = [name for line in story.lines()[since:] for name in failures(line)]
        assert set(failed) == {client}
        assert rounds is None or len(failed) == rounds
        assert min(line["nodes"]["answered"] for line in story.lines()[since:]) >= ALL - 1


def failures(line: Line) -> list[str]:
    """Return who failed in a round."""
    return [failure["client"] for failure in line["nodes"]["failed"]]


@contextlib.contextmanager
def hampered(federation: Sites) -> Iterator[None]:
    """Make one site's line slow, one's lossy and one's long."""
    network, delay = federation.network, delay_of(federation)
    network.throttle("hospital-a", SLOW_KILOBITS)
    network.lose("hospital-c", LOST)
    delay.write_text(str(DELAY_SECONDS))
    try:
        yield
    finally:
        network.repair("hospital-a")
        network.repair("hospital-c")
        delay.write_text("0")


def fill(file: Path) -> Path:
    """Write until the disk is full; return the file that fills it."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    return file
