"""A module that raises as it is imported."""

nothing = 1 / 0
