"""Enhanced entropy-reduction aggregation: SCARLET's sharpening of averaged soft labels."""

import torch
from torch import Tensor


def enhanced_era(mean: Tensor, beta: float) -> Tensor:
    """Sharpen (β > 1) or flatten (β < 1) averaged soft labels; β = 1 is the identity.

    ẑ_i ∝ z̄_i^β, the paper's Enhanced ERA. Computed as softmax(β·log z̄) in float64: the power
    itself underflows to 0/0 for large β or many classes.

    Parameters
    ----------
    mean : Tensor
        Probabilities z̄ averaged over clients, shape (n, classes).
    beta : float
        The exponent β > 0.

    Returns
    -------
    Tensor
        Probabilities ẑ, float32, shape (n, classes).
    """
    if beta <= 0:
        raise ValueError(f"beta = {beta}: must be greater than 0")
    return torch.softmax(beta * torch.log(mean.double()), dim=-1).float()
