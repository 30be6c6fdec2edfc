"""A package of another Flower project: what tests name by reference and is too odd for ``custom/``."""
