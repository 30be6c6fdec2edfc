"""Faults, each in a run of real processes; asserts of the chapters show their values like a test's own."""

import pytest

pytest.register_assert_rewrite("tests.faults.chapters")
