import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.spec import build_spec
from trainables import DataError, RlctConfig, TrainingConfig, TrialConfig, load_task, run_experiment
from trainables.errors import ConfigError
from trainables.tasks import TASKS, Recipe, Task, TaskData
from trainables.tasks.mnist import SHA256


@pytest.fixture(params=sorted(TASKS))
def task_data(request: pytest.FixtureRequest) -> TaskData:
    data = request.getfixturevalue(request.param)
    assert isinstance(data, TaskData)
    return data


def test_every_task_gives_float_inputs_in_range_and_labels_of_every_class(task_data: TaskData) -> None:
    for inputs, labels in (
        (task_data.train_inputs, task_data.train_labels),
        (task_data.test_inputs, task_data.test_labels),
    ):
        assert inputs.dtype == np.float32
        assert labels.dtype == np.int64
        assert inputs.shape == (len(labels), task_data.features)
        assert inputs.min() == pytest.approx(-1)
        assert inputs.max() == pytest.approx(1)
        assert set(np.unique(labels)) == set(range(task_data.classes))


def test_the_digest_of_every_task_follows_its_content(task_data: TaskData) -> None:
    labels = task_data.test_labels.copy()
    labels[0] = (labels[0] + 1) % task_data.classes
    changed = TaskData(
        task_data.task,
        task_data.classes,
        task_data.train_inputs,
        task_data.train_labels,
        task_data.test_inputs,
        labels,
    )
    assert changed.digest() != task_data.digest()


def test_digits_have_the_same_digest_however_often_they_are_loaded(digits: TaskData) -> None:
    assert load_task("digits").digest() == digits.digest()


def test_every_task_holds_out_a_stratified_validation_split_from_training_data_alone(task_data: TaskData) -> None:
    splits = task_data.split(0.1, seed=3)
    assert splits.validation is not None
    assert len(splits.train) + len(splits.validation) == len(task_data.train_labels)
    assert len(splits.train) == task_data.training_size(0.1)
    shares = np.bincount(task_data.train_labels) / len(task_data.train_labels)
    held_out = np.bincount(splits.validation.labels.numpy()) / len(splits.validation)
    np.testing.assert_allclose(held_out, shares, atol=0.01)
    np.testing.assert_array_equal(splits.test.inputs.numpy(), task_data.test_inputs)


def test_validation_and_training_samples_are_disjoint_and_complete(digits: TaskData) -> None:
    # Give every sample a name of its own, and see where the names go.
    named = TaskData(
        "digits", 10,
        np.arange(len(digits.train_labels), dtype=np.float32)[:, None], digits.train_labels,
        digits.test_inputs, digits.test_labels,
    )  # fmt: skip
    splits = named.split(0.2, seed=0)
    assert splits.validation is not None
    train, validation = (set(s.inputs[:, 0].tolist()) for s in (splits.train, splits.validation))
    assert train & validation == set()
    assert train | validation == set(range(len(digits.train_labels)))


def test_the_seed_decides_the_split(digits: TaskData) -> None:
    first, again, other = (digits.split(0.2, seed).train.inputs.numpy() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_published_recipe_has_no_validation_split(digits: TaskData) -> None:
    splits = digits.split(0.0, seed=0)
    assert splits.validation is None
    assert len(splits.train) == len(digits.train_labels)


@settings(max_examples=25, deadline=None)
@given(fraction=st.floats(0.02, 0.5))
def test_a_split_has_the_size_that_was_announced(fraction: float) -> None:
    data = load_task("digits")
    assert len(data.split(fraction, seed=0).train) == data.training_size(fraction)


def test_mnist_has_its_published_sizes(mnist: TaskData) -> None:
    assert mnist.train_inputs.shape == (60000, 784)
    assert mnist.test_inputs.shape == (10000, 784)
    assert np.bincount(mnist.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_missing_mnist_without_a_network_is_one_error_that_says_what_to_do(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(DataError, match=rf"MNIST is not in {tmp_path}.*--data DIR or SELF_MODELING_DATA"):
        load_task("mnist", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_mnist_file_is_refused_by_name(damage: str, tmp_path: Path, mnist: TaskData) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in SHA256:
        (raw / name).write_bytes(b"\0" * 100)
    victim = raw / "train-images-idx3-ubyte"
    content = victim.read_bytes()
    victim.write_bytes(content[:50] if damage == "truncated" else b"\1" + content[1:])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is not the MNIST file.*expected ba891046e650"):
        load_task("mnist", tmp_path)
    shutil.rmtree(raw)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'minst' is unknown: did you mean 'mnist'.*digits, mnist"):
        load_task("minst")


class Xor(Task):
    """A task of one's own: the whole of what adding one takes, with a line in TASKS."""

    name = "xor"
    summary = "two bits"
    needs_data_root = False
    recipe = Recipe(
        TrainingConfig(batch_size=20, epochs=60, learning_rate=0.1), RlctConfig(draws=20, batch_size=20, step_size=1e-3)
    )

    def load(self, root: Path | None) -> TaskData:
        bits = np.random.default_rng(0).integers(0, 2, size=(500, 2))
        inputs, labels = bits.astype(np.float32) * 2 - 1, bits.sum(axis=1) % 2
        return TaskData(self.name, 2, inputs[:400], labels[:400], inputs[400:], labels[400:])


def test_a_new_task_is_one_class_and_one_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "xor", Xor())
    spec = build_spec({"name": "mine", "task": "xor", "trials": 1, "replicates": 2, "space": {"width": 8}}, "mine")
    assert spec.training == Xor.recipe.training
    data = load_task("xor")
    spec.check_against(data)
    config = TrialConfig.from_recipe("xor", aux_weight=0.1, seeds=(0, 1), network={"width": 8})
    result = run_experiment(config, data)
    assert result.status == "ok"
    assert result.measurements["val_accuracy"].min() > 0.9
