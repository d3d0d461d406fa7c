"""Formulas that need only a tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def weight_std(weights: Tensor) -> Tensor:
    """Standard deviation over the weights (R, …) of a layer, (R,).

    Premakumar et al. (2024), arXiv 2407.10188, measure it on the class rows of the final layer, without biases.
    """
    return weights.flatten(1).std(dim=1)


def effective_rank(features: Tensor) -> Tensor:
    """Effective rank of features (R, B, F) about their mean, (R,): exp(−Σ p ln p) with p = σ / Σσ, σ singular values.

    Roy and Vetterli (2007), "The effective rank: a measure of effective dimensionality". NaN where the features are not
    finite.
    """
    import torch

    centred = (features - features.mean(dim=1, keepdim=True)).double()
    wide = centred.shape[2] > centred.shape[1]
    gram = centred @ centred.transpose(1, 2) if wide else centred.transpose(1, 2) @ centred
    finite = gram.isfinite().all(dim=2).all(dim=1)
    singular = torch.linalg.eigvalsh(torch.where(finite.view(-1, 1, 1), gram, 0.0)).clamp(min=0).sqrt()
    share = singular / singular.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    rank = torch.exp(-torch.xlogy(share, share).sum(dim=1))
    # Features that never change have rank 0.
    rank = torch.where(singular.sum(dim=1) > 0, rank, 0.0)
    return torch.where(finite, rank, math.nan)
