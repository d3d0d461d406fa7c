"""The networks still compute the numbers in golden/: checkpoints from that time can be read."""

import numpy as np
import pytest
import torch

from tests.trainables.golden import NETWORKS, golden, outputs
from trainables.code import EARLIER_DIGESTS
from trainables.networks import ARCHITECTURES


@pytest.mark.parametrize("architecture", sorted(NETWORKS))
def test_a_fresh_network_gives_the_stored_numbers(architecture: str) -> None:
    stored = golden(architecture)
    computed = outputs(architecture, torch.from_numpy(stored.pop("inputs")))
    assert stored.keys() == computed.keys()
    for name, tensor in computed.items():
        # Equal bit for bit on the machine that wrote them; another processor may add in another order.
        np.testing.assert_allclose(tensor.numpy(), stored[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_numbers_are_stored_for_every_architecture_and_for_all_with_earlier_checkpoints() -> None:
    assert set(NETWORKS) == set(ARCHITECTURES)
    assert set(EARLIER_DIGESTS) <= set(NETWORKS)
