"""docs/faults.md tells of every test here, and of none that is not."""

import re
from pathlib import Path

from tests.support.processes import PROJECT

HERE = Path(__file__)
TEXT = (PROJECT / "docs" / "faults.md").read_text()
END = "test_the_end_is_as_good_as_undisturbed"
"""Told of in words, before the tables."""


def test_every_test_is_in_a_table_and_every_one_named_there_exists():
    files = [path for path in HERE.parent.glob("*.py") if path != HERE]
    tests = {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert set(re.findall(r"`(test_\w+)`", TEXT)) == tests - {END}
