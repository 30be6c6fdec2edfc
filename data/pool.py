"""The public pool P: images without labels that every party holds, and how to tell two pools apart."""

import hashlib
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PublicPool:
    """Public images in an order that all parties share.

    Parameters
    ----------
    inputs
        Float32 tensor of shape (|P|, channels, height, width).
    digest
        Fingerprint of ``inputs`` (see :func:`digest`); parties whose digests differ hold different
        pools, and positions in one mean nothing in the other.
    """

    inputs: Tensor
    digest: str

    @classmethod
    def of(cls, inputs: Tensor) -> Self:
        """Make the pool of ``inputs`` with their digest."""
        return cls(inputs, digest(inputs))

    def to(self, device: torch.device | str) -> Self:
        """Return the same pool on ``device``."""
        return replace(self, inputs=self.inputs.to(device))

    def __len__(self) -> int:
        return len(self.inputs)


def digest(inputs: Tensor) -> str:
    """Fingerprint a tensor: 32 hexadecimal digits that follow from its dtype, shape and values.

    The values are hashed as little-endian bytes in row-major order, so neither the machine nor
    the tensor's device or strides matter.
    """
    array = inputs.detach().cpu().numpy()
    fingerprint = hashlib.blake2b(f"{array.dtype.name} {array.shape} ".encode(), digest_size=16)
    fingerprint.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return fingerprint.hexdigest()
