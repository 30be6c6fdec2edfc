"""A SCARLET run that all faults befall."""

from typing import ClassVar

import pytest

from tests.faults.chapters import UNREADABLE, DisturbedRun
from tests.faults.settings import SCARLET
from tests.support.sites import await_result

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]


class TestScarlet(DisturbedRun):
    settings = SCARLET
    tampered: ClassVar = {
        "bits": "refused: labels: ",
        "nan": "refused: labels: not all values are finite",
        "shapes": "refused: labels: ",
        "keys": "refused: SoftLabelReply.",
        "junk": UNREADABLE,
        "type": UNREADABLE,
        "promised": "ClientApp ended amid its reply.",
        "half": "ClientApp ended without an answer: killed by SIGKILL",
    }

    def test_a_killed_launcher_costs_the_reply_it_was_at(self, story):
        processes, since = story.federation.processes, story.done()
        starts = processes.starts("hospital-a-launcher")
        await_result(lambda: story.at_work("hospital-a"), 60, "a ClientApp at work")
        with story.timed("launcher killed: noticed"):
            processes.kill("hospital-a-launcher")
            reason = story.fails("hospital-a", since)
        story.keep("launcher killed: said", reason)
        assert "stopped responding" in reason or "no reply within" in reason
        assert processes.starts("hospital-a-launcher") == starts + 1
        self.only_failed(story, since, "hospital-a")

    def test_the_end_is_as_good_as_undisturbed(self, story, tmp_path):
        self.ends_as_well_as_undisturbed(story, tmp_path)
