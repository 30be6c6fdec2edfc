"""Errors that a user can act on.

They are shown as their message alone: what is wrong, where, and what is allowed.
"""


class MotleyError(Exception):
    """Base of every error whose message is meant for the person who runs Motley."""


class SettingsError(MotleyError):
    """A setting of the run or of the node is unknown, ill-typed or impossible."""


class MessageError(MotleyError):
    """A record that came over the wire is not what its message type promises."""


class DataError(MotleyError):
    """The data cannot be read, or cannot be divided as the settings ask."""


class FederationError(MotleyError):
    """The federation cannot go on: too few clients, or too few replies."""


class TrainingError(MotleyError, FloatingPointError):
    """A model's loss or weights are not finite any more."""


class RunStoppedError(MotleyError):
    """The run was told to stop; what it had done by then is saved."""


class ResumeError(MotleyError):
    """There is no usable checkpoint where the settings say to resume from."""


class FormatError(MotleyError):
    """A file's content is not of the format that this program reads or writes, as one of a newer version."""
