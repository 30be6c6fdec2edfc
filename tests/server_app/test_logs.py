"""Errors of ours are shown as their message alone."""

import io
import logging
from collections.abc import Iterator

import pytest

from protocol.errors import FederationError
from server_app.logs import show_errors_as_messages


@pytest.fixture
def shown() -> Iterator[io.StringIO]:
    """Return what Flower's logger shows."""
    logger, shown = logging.getLogger("flwr"), io.StringIO()
    handler, filters = logging.StreamHandler(shown), list(logger.filters)
    logger.addHandler(handler)
    yield shown
    logger.removeHandler(handler)
    logger.filters[:] = filters


def log_as_flower_does(error: Exception) -> None:
    try:
        raise error
    except Exception as caught:
        logging.getLogger("flwr").error("ServerApp thread raised an exception: %s", caught, exc_info=True)


def test_an_error_of_ours_is_its_message(shown: io.StringIO) -> None:
    show_errors_as_messages()
    log_as_flower_does(FederationError("waited 5 s for 100 % of 2 clients"))
    assert shown.getvalue() == "waited 5 s for 100 % of 2 clients\n"


def test_any_other_error_keeps_its_traceback(shown: io.StringIO) -> None:
    show_errors_as_messages()
    log_as_flower_does(ValueError("unforeseen"))
    assert "ServerApp thread raised an exception: unforeseen" in shown.getvalue()
    assert "Traceback" in shown.getvalue()


def test_asking_twice_filters_once(shown: io.StringIO) -> None:
    before = len(logging.getLogger("flwr").filters)
    show_errors_as_messages()
    show_errors_as_messages()
    assert len(logging.getLogger("flwr").filters) == before + 1
