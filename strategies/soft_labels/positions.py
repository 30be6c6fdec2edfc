"""Explicit positions: the samples of a message's labels, sent where they cannot be implied."""

from dataclasses import dataclass

import numpy as np

from protocol.encodings import decode_indices, encode_indices
from protocol.errors import MessageError
from strategies.soft_labels.cache import Indices, LabelsInUse, VersionArray
from strategies.soft_labels.messages import SoftLabelRequest


@dataclass(frozen=True)
class Positions:
    """The labels in use, which of them a message contains, and the samples that it requests."""

    in_use: LabelsInUse
    sent: Indices
    """Positions, within ``in_use``, of the labels in the message, ascending."""
    requested: Indices

    def as_fields(self, pool_size: int) -> dict[str, bytes | None]:
        """Write the positions as the explicit fields of a ``SoftLabelRequest``."""
        used = self.in_use
        everything = len(self.sent) == len(used.indices)
        return {
            "used": encode_indices(used.indices, pool_size),
            "used_versions": _write_versions(used.versions),
            "sent": None if everything else encode_indices(self.sent, len(used.indices)),
            "requested": encode_indices(self.requested, pool_size),
        }

    @classmethod
    def from_request(cls, request: SoftLabelRequest, pool_size: int) -> "Positions | None":
        """Read explicit positions; None if the request has implied ones.

        Raises
        ------
        MessageError
            If the fields contradict each other.
        """
        if request.used is None and request.requested is None:
            return None
        if request.used is None or request.requested is None:
            raise MessageError("used, requested: one is present without the other")
        indices = decode_indices(request.used, pool_size)
        versions = _read_versions(request.used_versions or b"", len(indices))
        sent = np.arange(len(indices)) if request.sent is None else decode_indices(request.sent, len(indices))
        return cls(LabelsInUse(indices, versions), sent, decode_indices(request.requested, pool_size))


def _write_versions(versions: VersionArray) -> bytes:
    alike = len(versions) > 0 and bool((versions == versions[0]).all())
    return (versions[:1] if alike else versions).astype("<i4").tobytes()


def _read_versions(data: bytes, count: int) -> VersionArray:
    if len(data) % 4 or len(data) // 4 not in {count, min(count, 1)}:
        raise MessageError(f"used_versions: {len(data)} bytes for {count} labels")
    versions = np.frombuffer(data, dtype="<i4").astype(np.int32)
    return np.broadcast_to(versions, count).copy() if count else versions
