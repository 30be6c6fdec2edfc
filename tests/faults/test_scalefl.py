"""A ScaleFL run that all faults befall."""

from typing import ClassVar

import pytest

from tests.faults.chapters import ALL, DisturbedRun
from tests.faults.settings import SCALEFL

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]


class TestScaleFL(DisturbedRun):
    settings = SCALEFL
    tampered: ClassVar = {
        "bits": "refused: weights ",
        "nan": "refused: weights ",
        "shapes": "refused: level 3: tensor ",
        "half": "ClientApp ended without an answer: killed by SIGKILL",
    }

    def keeps_state(self, story):
        """A ScaleFL client keeps nothing from round to round, so that it does not even notice."""
        since = story.done()
        story.reaches(since + 2)
        assert [line["nodes"]["answered"] for line in story.lines()[since:]] == [ALL, ALL]

    def test_the_end_is_as_good_as_undisturbed(self, story, tmp_path):
        self.ends_as_well_as_undisturbed(story, tmp_path)
