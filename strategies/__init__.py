"""The methods, each a server half and a client half side by side."""

from strategies.composition import compose, method_of

__all__ = ["compose", "method_of"]
