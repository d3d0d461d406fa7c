from pathlib import Path

import pytest
import torch

from tests.conftest import small_trial
from trainables import CheckpointError, run_experiment
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.tasks import TaskData


def test_a_checkpoint_gives_back_the_network_and_what_it_belongs_to(tmp_path: Path, digits: TaskData) -> None:
    config = small_trial(aux_weight=1.0, hidden_layers=2, target_depths=(1,))
    network = run_experiment(config, digits).network
    path = save_checkpoint(tmp_path, network, config, digits.digest(), digits.features, digits.classes)
    loaded = load_checkpoint(path)
    assert loaded.config == config
    assert loaded.data_digest == digits.digest()
    inputs = torch.from_numpy(digits.test_inputs[None])
    torch.testing.assert_close(loaded.network(inputs).outputs, network(inputs).outputs, rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04pickle"])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights.safetensors is not a readable checkpoint"):
        load_checkpoint(path)
