import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.conftest import small_trial
from tests.trainables.small import input_spec, network_config
from trainables import PROTOCOL_VERSION, CheckpointError, CheckpointMismatchError, estimate_rlct_again, run_experiment
from trainables.checkpoint import load_checkpoint, merge_checkpoints, save_checkpoint
from trainables.code import EARLIER_DIGESTS, code_digest
from trainables.networks import Head, get_architecture
from trainables.tasks import TaskData


def test_a_checkpoint_gives_back_the_network_and_what_it_belongs_to(tmp_path: Path, digits: TaskData) -> None:
    config = small_trial(aux_weight=1.0, hidden_layers=2, self_model={"target_depths": (1,)})
    network = run_experiment(config, digits).network
    path = save_checkpoint(tmp_path, network, config, digits.digest(), digits.shape.inputs)
    loaded = load_checkpoint(path)
    assert loaded.config == config
    assert loaded.data_digest == digits.digest()
    inputs = torch.from_numpy(digits.test_inputs[None])
    torch.testing.assert_close(loaded.network(inputs).logits, network(inputs).logits, rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04pickle"])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights.safetensors is not a readable checkpoint"):
        load_checkpoint(path)


def saved(folder: Path, digits: TaskData) -> Path:
    config = small_trial(aux_weight=1.0)
    network = run_experiment(config, digits).network
    return save_checkpoint(folder, network, config, digits.digest(), digits.shape.inputs)


def rewrite(path: Path, **metadata: str) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        changed = file.metadata() | metadata
    save_file(tensors, path, changed)


def test_a_checkpoint_of_other_data_is_refused_with_both_digests(tmp_path: Path, digits: TaskData) -> None:
    path = saved(tmp_path, digits)
    assert load_checkpoint(path, digits.digest()).trial_key == small_trial(aux_weight=1.0).key(digits.digest())
    with pytest.raises(CheckpointMismatchError, match=rf"data: {digits.digest()[:16]} then, 0000000000000000 now"):
        load_checkpoint(path, "0" * 64)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"code_digest": "f" * 64}, "code of the network: ffffffffffffffff then"),
        ({"protocol_version": "1"}, f"protocol version: 1 then, {PROTOCOL_VERSION} now"),
        ({"trial_key": "0123456789abcdef"}, "trial key: 0123456789abcdef then"),
    ],
)
def test_a_checkpoint_of_other_code_is_refused_with_what_differs(
    tmp_path: Path, digits: TaskData, metadata: dict[str, str], message: str
) -> None:
    path = saved(tmp_path, digits)
    rewrite(path, **metadata)
    with pytest.raises(CheckpointMismatchError, match=message):
        load_checkpoint(path, digits.digest())


def test_a_checkpoint_of_earlier_code_that_computed_the_same_is_read(
    tmp_path: Path, digits: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, digits)
    weights = load_checkpoint(path).network.state_dict()
    same, other = "a" * 64, "b" * 64
    monkeypatch.setitem(EARLIER_DIGESTS, "mlp", frozenset({same}))
    monkeypatch.setitem(EARLIER_DIGESTS, "convnet", frozenset({other}))
    rewrite(path, code_digest=same)
    for name, tensor in load_checkpoint(path, digits.digest()).network.state_dict().items():
        assert torch.equal(tensor, weights[name])
    rewrite(path, code_digest=other)
    with pytest.raises(CheckpointMismatchError, match=f"{other[:16]} then"):
        load_checkpoint(path, digits.digest())


def test_the_code_digest_follows_what_the_code_does_and_not_how_it_is_explained(tmp_path: Path) -> None:
    def digest_of(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        module_spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        module_spec.loader.exec_module(module)
        return code_digest(get_architecture("mlp"), module.Network())

    source = "from torch import nn\nclass Network(nn.Module):\n    def forward(self, x):\n        return {}\n"
    plain = digest_of("plain_network", source.format("x + 1"))
    assert digest_of("explained_network", '"""Adds."""\n' + source.format("x + 1  # one")) == plain
    assert digest_of("other_network", source.format("x + 2")) != plain


def test_estimating_again_with_the_same_settings_gives_the_same_numbers(tmp_path: Path, digits: TaskData) -> None:
    config = small_trial(aux_weight=1.0, training={"epochs": 5}, rlct={"draws": 20})
    result = run_experiment(config, digits)
    path = save_checkpoint(tmp_path, result.network, config, digits.digest(), digits.shape.inputs)
    again = estimate_rlct_again(load_checkpoint(path, digits.digest()), digits, config.rlct)
    np.testing.assert_array_equal(again.trace.loss, result.rlct.trace.loss)
    np.testing.assert_array_equal(again.per_chain, result.rlct.per_chain)


def trained(folder: Path, digits: TaskData, seeds: tuple[int, ...], **fields: Any) -> Path:
    """The checkpoint of a trial with these seeds, in a folder of its own."""
    config = small_trial(aux_weight=1.0, seeds=seeds, **fields)
    network = run_experiment(config, digits).network
    place = folder / "-".join(map(str, seeds))
    place.mkdir()
    return save_checkpoint(place, network, config, digits.digest(), digits.shape.inputs)


def test_merged_checkpoints_have_every_replicate_in_the_order_of_the_seeds(tmp_path: Path, digits: TaskData) -> None:
    parts = [trained(tmp_path, digits, seeds) for seeds in ((0, 3), (1, 2))]
    merged = load_checkpoint(merge_checkpoints(parts, tmp_path), digits.digest())
    assert merged.config == small_trial(aux_weight=1.0, seeds=(0, 1, 2, 3))
    first, second = (load_checkpoint(part).network.state_dict() for part in parts)
    for name, tensor in merged.network.state_dict().items():
        expected = torch.stack([first[name][0], second[name][0], second[name][1], first[name][1]])
        assert torch.equal(tensor, expected), name


def test_an_rlct_is_estimated_for_every_replicate_of_a_merged_checkpoint(tmp_path: Path, digits: TaskData) -> None:
    parts = [trained(tmp_path, digits, seeds) for seeds in ((0, 1), (2,))]
    merged = load_checkpoint(merge_checkpoints(parts, tmp_path), digits.digest())
    estimate = estimate_rlct_again(merged, digits, merged.config.rlct)
    assert estimate.estimate.shape == (3,)
    assert np.isfinite(estimate.estimate).all()


def test_every_tensor_of_a_network_has_the_replicate_axis_first(architecture: str) -> None:
    config, inputs = network_config(architecture), input_spec(architecture)
    build = get_architecture(architecture).build
    three, five = (build(config, inputs, Head(3, 4, hidden=7), range(each)).state_dict() for each in (3, 5))
    for name, tensor in three.items():
        assert tensor.shape[0] == 3, name
        assert five[name].shape == (5, *tensor.shape[1:]), name


def test_checkpoints_of_the_same_seed_or_of_another_trial_are_not_merged(tmp_path: Path, digits: TaskData) -> None:
    first, same = trained(tmp_path, digits, (0, 1)), trained(tmp_path, digits, (1, 2))
    with pytest.raises(CheckpointError, match="replicates of seeds that the others have too"):
        merge_checkpoints([first, same], tmp_path)
    other = trained(tmp_path, digits, (2,), width=12)
    with pytest.raises(CheckpointMismatchError, match="trial key"):
        merge_checkpoints([first, other], tmp_path)
