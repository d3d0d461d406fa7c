"""Measures of complexity that are read off the weights."""

import torch
from torch import Tensor


@torch.no_grad()
def weight_std(head_weight: Tensor, classes: int) -> Tensor:
    """Standard deviation over the classes × inputs weights of the final layer, (R,).

    Biases and the self-model's rows are left out, as in Premakumar et al. (2024), arXiv 2407.10188.
    """
    return head_weight[:, :classes].flatten(1).std(dim=1)
