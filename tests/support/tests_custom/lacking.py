"""A module that imports what is not installed."""

import nowhere_to_be_found  # noqa: F401
