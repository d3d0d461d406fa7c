"""The contract of tasks, tested with small files of each format on every machine, and with the real data if present."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from study.spec import build_spec
from tests.conftest import FILES
from tests.trainables.image_host import image_host
from tests.trainables.small_files import write_small_files
from trainables import DataError, RlctConfig, TrainingConfig, TrialConfig, load_task, run_experiment
from trainables.errors import ConfigError
from trainables.tasks import NO_TOKEN, TASKS, DataShape, InputSpec, Recipe, Task, TaskData

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "imdb": "IMDB"}
# Every task in turn, with small files if it reads files; and the real data sets.
SMALL = [f"{name}-small" if name in FILES else name for name in sorted(TASKS)]
small_data = pytest.mark.parametrize("task_data", SMALL, indirect=True)
small_or_full_data = pytest.mark.parametrize("task_data", [*SMALL, *sorted(FILES)], indirect=True)


@pytest.fixture
def task_data(request: pytest.FixtureRequest, small_files: Callable[[str], Path]) -> TaskData:
    """The data that the parameter names: "mnist" is the real MNIST, "mnist-small" that of the small files."""
    name = request.param.removesuffix("-small")
    if name != request.param:
        return load_task(name, small_files(name))
    data = request.getfixturevalue(name) if name in FILES else load_task(name)
    assert isinstance(data, TaskData)
    return data


def test_there_are_small_files_of_every_task_that_reads_files() -> None:
    assert set(FILES) == {name for name, task in TASKS.items() if task.needs_data_root}


@small_or_full_data
def test_every_task_has_the_shape_it_announces_and_labels_of_every_class(task_data: TaskData) -> None:
    shape = TASKS[task_data.task].shape
    assert task_data.shape == shape
    for inputs, labels, samples in (
        (task_data.train_inputs, task_data.train_labels, shape.train_samples),
        (task_data.test_inputs, task_data.test_labels, shape.test_samples),
    ):
        assert inputs.shape == (samples, *shape.inputs.shape)
        assert labels.shape == (samples,)
        assert labels.dtype == np.int64
        assert set(np.unique(labels)) == set(range(shape.classes))


@small_or_full_data
def test_every_task_gives_floats_in_range_or_tokens_of_its_vocabulary(task_data: TaskData) -> None:
    for inputs in (task_data.train_inputs, task_data.test_inputs):
        if task_data.shape.inputs.is_text:
            assert task_data.vocabulary is not None
            assert inputs.dtype == np.int32
            assert inputs.min() == NO_TOKEN
            assert inputs.max() < task_data.vocabulary
            is_token = inputs != NO_TOKEN
            assert is_token[:, 0].all()  # no text is empty
            assert not (is_token[:, 1:] & ~is_token[:, :-1]).any()  # no tokens after a text's end
        else:
            assert inputs.dtype == np.float32
            assert inputs.min() == pytest.approx(-1)
            assert inputs.max() == pytest.approx(1)


@small_or_full_data
def test_the_digest_of_every_task_follows_its_content(task_data: TaskData) -> None:
    arrays = ("train_inputs", "train_labels", "test_inputs", "test_labels")
    few = replace(task_data, **{name: getattr(task_data, name)[:20] for name in arrays})
    assert replace(few, **{name: getattr(few, name).copy() for name in arrays}).digest() == few.digest()
    changed = [few]
    for name in arrays:
        array = getattr(few, name).copy()
        array[0] += 1
        changed.append(replace(few, **{name: array}))
    changed.append(replace(few, vocabulary=7))
    assert len({data.digest() for data in changed}) == 6


@small_data
def test_a_task_has_the_same_digest_however_often_it_is_loaded(task_data: TaskData, tmp_path: Path) -> None:
    assert load_task(task_data.task, tmp_path / "small").digest() == task_data.digest()


@pytest.mark.parametrize("name", sorted(FILES))
def test_other_files_give_another_digest(
    name: str, tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = load_task(name, small_files(name)).digest()
    write_small_files(name, tmp_path / "other", monkeypatch, seed=1)
    assert load_task(name, tmp_path / "other").digest() != digest


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_data_without_a_network_is_one_error_that_says_what_to_do(
    name: str, tmp_path: Path, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=rf"{TITLES[name]} is not in {tmp_path}.*--data DIR or SELF_MODELING_DATA"):
        load_task(name, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [path.suffix for path in tmp_path.rglob("*")] == [".lock"]


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_missing_images_are_downloaded(
    name: str, tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_files(name)
    with image_host(name, root, tmp_path / "host", monkeypatch):
        downloaded = load_task(name, tmp_path / "downloaded")
    assert downloaded.digest() == load_task(name, root).digest()


@small_or_full_data
def test_every_task_holds_out_a_stratified_validation_split_from_training_data_alone(task_data: TaskData) -> None:
    # A tenth of a small training split has fewer samples than there are classes.
    fraction = 0.1 if len(task_data.train_labels) > 100 else 0.5
    splits = task_data.split(fraction, seed=3)
    assert splits.validation is not None
    assert len(splits.train) + len(splits.validation) == len(task_data.train_labels)
    assert len(splits.train) == task_data.shape.training_size(fraction)
    shares = np.bincount(task_data.train_labels) / len(task_data.train_labels)
    held_out = np.bincount(splits.validation.labels.numpy()) / len(splits.validation)
    np.testing.assert_allclose(held_out, shares, atol=0.01)
    assert np.array_equal(splits.test.inputs.numpy(), task_data.test_inputs)


def test_validation_and_training_samples_are_disjoint_and_complete(digits: TaskData) -> None:
    # Give every sample a unique value, and check where the values go.
    named = replace(digits, train_inputs=np.arange(len(digits.train_labels), dtype=np.float32)[:, None])
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
    assert len(data.split(fraction, seed=0).train) == data.shape.training_size(fraction)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(10, 1140), fraction=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 100))
def test_a_part_of_the_training_samples_is_stratified_and_leaves_the_held_out_ones_alone(
    samples: int, fraction: float, seed: int
) -> None:
    data = load_task("digits")
    whole, part = data.split(fraction, seed), data.split(fraction, seed, train_samples=samples)
    assert len(part.train) == samples == data.shape.training_size(fraction, samples)
    shares = [np.bincount(split.labels.numpy(), minlength=10) / len(split) for split in (whole.train, part.train)]
    assert np.abs(shares[0] - shares[1]).max() <= 1 / samples
    assert torch.equal(whole.held_out.inputs, part.held_out.inputs)
    in_whole = {row.tobytes() for row in whole.train.inputs.numpy()}
    assert {row.tobytes() for row in part.train.inputs.numpy()} <= in_whole


@pytest.mark.parametrize("name", sorted(name for name, task in TASKS.items() if not task.augments))
def test_a_task_whose_recipe_has_no_augmentation_says_so(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"'{name}' has no augmentation"):
        TASKS[name].augmentation(5, torch.Generator())


@pytest.mark.parametrize(
    "task_data", [data for data in SMALL if TASKS[data.removesuffix("-small")].augments], indirect=True
)
def test_augmented_images_are_other_images_of_the_same_shape_type_and_range(task_data: TaskData) -> None:
    task, images = TASKS[task_data.task], torch.from_numpy(task_data.train_inputs)
    augmented = task.augment(images, task.augmentation(len(images), torch.Generator().manual_seed(0)))
    assert augmented.shape == images.shape
    assert augmented.dtype == images.dtype
    assert augmented.abs().max() <= 1
    changed = (augmented != images).flatten(1).any(dim=1).double().mean()
    # A slight rotation moves no pixel of 8×8 to another place.
    assert changed > 0.7 if task.name == "digits" else changed == 1


@small_data
def test_every_task_is_trained_and_measured_by_its_recipe(task_data: TaskData) -> None:
    recipe = TASKS[task_data.task].recipe
    short = {"epochs": 2, "batch_size": 5, "validation_fraction": 0.5}
    # Such small steps stay near the trained weights, and these networks are barely trained.
    few_draws = {"draws": 8, "chains": 2, "batch_size": 2, "step_size": 1e-6}
    config = TrialConfig.from_recipe(
        task_data.task, aux_weight=0.1, network={"width": 32}, training=short, rlct=few_draws, observer={"epochs": 1}
    )
    assert config.network == recipe.network.model_copy(update={"width": 32})
    assert config.training == recipe.training.model_copy(update=short)
    assert config.rlct == recipe.rlct.model_copy(update=few_draws)
    result = run_experiment(config, task_data)
    first_loss, last_loss = result.history["train_loss"]
    assert last_loss < first_loss
    assert result.status != "diverged"
    assert result.rlct.verdict != "diverged"
    finite = {name: bool(np.isfinite(values).all()) for name, values in result.measurements.items()}
    # Not asked for.
    assert not finite.pop("rlct_balanced")
    assert not finite.pop("rlct_in_training")
    assert finite.pop("path_norm") == (result.network.rescalable() is not None)
    assert finite.pop("weight_std_balanced") == (result.network.rescalable() is not None)
    assert all(finite.values()), finite


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'minst' is unknown: did you mean 'mnist'.*cifar10, digits, imdb, mnist"):
        load_task("minst")


class Xor(Task):
    """An added task: this class, and a line in TASKS."""

    name = "xor"
    summary = "two bits"
    needs_data_root = False
    shape = DataShape(InputSpec((2,)), 2, 400, 100)
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
    spec.check_against(data.shape)
    config = TrialConfig.from_recipe("xor", aux_weight=0.1, seeds=(0, 1), network={"width": 8})
    result = run_experiment(config, data)
    assert result.status == "ok"
    assert result.measurements["val_accuracy"].min() > 0.9
