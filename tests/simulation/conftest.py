"""Messages can only be made by a task of Flower's."""

from collections.abc import Iterator

import pytest

from simulation.messages import task_identity


@pytest.fixture(autouse=True)
def as_server() -> Iterator[None]:
    with task_identity():
        yield
