"""The public pool P: samples without labels that every party holds, and how to tell two pools apart."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from data.inputs import Inputs


@dataclass(frozen=True, eq=False)
class PublicPool:
    """Public samples in an order that all parties share.

    Parameters
    ----------
    inputs
        The inputs of |P| samples.
    digest
        Fingerprint of the samples as they were stored, and for texts of their tokens: 32 hexadecimal digits.
        Parties whose digests differ hold different pools, and positions in one mean nothing in the other.
    """

    inputs: Inputs
    digest: str

    def to(self, device: torch.device | str) -> Self:
        """Return the same pool on ``device``."""
        return replace(self, inputs=self.inputs.to(device))

    def __len__(self) -> int:
        return len(self.inputs)
