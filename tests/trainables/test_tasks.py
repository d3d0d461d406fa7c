import io
import pickle
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from study.spec import build_spec
from tests.conftest import DATA
from trainables import DataError, RlctConfig, TrainingConfig, TrialConfig, load_task, run_experiment
from trainables.errors import ConfigError
from trainables.tasks import NO_TOKEN, TASKS, DataShape, InputSpec, Recipe, Task, TaskData
from trainables.tasks.cifar10 import SHA256 as CIFAR10_SHA256
from trainables.tasks.imdb import SHA256 as IMDB_SHA256
from trainables.tasks.imdb import encode, tokenize, vocabulary
from trainables.tasks.mnist import SHA256 as MNIST_SHA256


@pytest.fixture(params=sorted(TASKS))
def task_data(request: pytest.FixtureRequest) -> TaskData:
    data = request.getfixturevalue(request.param)
    assert isinstance(data, TaskData)
    return data


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


def test_every_task_gives_floats_in_range_or_tokens_of_its_vocabulary(task_data: TaskData) -> None:
    for inputs in (task_data.train_inputs, task_data.test_inputs):
        if task_data.shape.inputs.is_text:
            assert task_data.vocabulary is not None
            assert inputs.dtype == np.int32
            assert inputs.min() == NO_TOKEN
            assert inputs.max() < task_data.vocabulary
            is_token = inputs != NO_TOKEN
            assert is_token[:, 0].all()  # no text is empty
            assert not (is_token[:, 1:] & ~is_token[:, :-1]).any()  # and nothing comes after its end
        else:
            assert inputs.dtype == np.float32
            assert inputs.min() == pytest.approx(-1)
            assert inputs.max() == pytest.approx(1)


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


def test_digits_have_the_same_digest_however_often_they_are_loaded(digits: TaskData) -> None:
    assert load_task("digits").digest() == digits.digest()


def test_every_task_holds_out_a_stratified_validation_split_from_training_data_alone(task_data: TaskData) -> None:
    splits = task_data.split(0.1, seed=3)
    assert splits.validation is not None
    assert len(splits.train) + len(splits.validation) == len(task_data.train_labels)
    assert len(splits.train) == task_data.shape.training_size(0.1)
    shares = np.bincount(task_data.train_labels) / len(task_data.train_labels)
    held_out = np.bincount(splits.validation.labels.numpy()) / len(splits.validation)
    np.testing.assert_allclose(held_out, shares, atol=0.01)
    assert np.array_equal(splits.test.inputs.numpy(), task_data.test_inputs)


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
    assert len(data.split(fraction, seed=0).train) == data.shape.training_size(fraction)


def test_mnist_has_its_published_sizes(mnist: TaskData) -> None:
    assert mnist.train_inputs.shape == (60000, 1, 28, 28)
    assert mnist.test_inputs.shape == (10000, 1, 28, 28)
    assert np.bincount(mnist.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_missing_mnist_without_a_network_is_one_error_that_says_what_to_do(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(DataError, match=rf"MNIST is not in {tmp_path}.*--data DIR or SELF_MODELING_DATA"):
        load_task("mnist", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_mnist_file_is_refused_by_name(damage: str, tmp_path: Path, mnist: TaskData) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in MNIST_SHA256:
        (raw / name).write_bytes(b"\0" * 100)
    victim = raw / "train-images-idx3-ubyte"
    content = victim.read_bytes()
    victim.write_bytes(content[:50] if damage == "truncated" else b"\1" + content[1:])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is not the MNIST file.*expected ba891046e650"):
        load_task("mnist", tmp_path)
    shutil.rmtree(raw)


def test_what_an_old_torchvision_has_left_beside_the_mnist_files_is_not_read(tmp_path: Path, mnist: TaskData) -> None:
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw").symlink_to(DATA / "MNIST" / "raw")
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(10, 28, 28, dtype=torch.uint8), torch.zeros(10)), tmp_path / "MNIST/processed" / name)
    assert load_task("mnist", tmp_path).digest() == mnist.digest()


def test_cifar10_has_its_published_sizes(cifar10: TaskData) -> None:
    assert cifar10.train_inputs.shape == (50000, 3, 32, 32)
    assert cifar10.test_inputs.shape == (10000, 3, 32, 32)
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


def test_cifar10_has_the_colour_means_that_are_in_common_use(cifar10: TaskData) -> None:
    means = (cifar10.train_inputs.mean(axis=(0, 2, 3), dtype=np.float64) + 1) / 2
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)


def test_missing_cifar10_without_a_network_is_one_error_that_says_what_to_do(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(DataError, match=rf"CIFAR-10 is not in {tmp_path}.*--data DIR or SELF_MODELING_DATA"):
        load_task("cifar10", tmp_path)


class Touch:
    """What a malicious pickle could be: to read it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("victim", sorted(CIFAR10_SHA256))
def test_no_file_of_cifar10_is_unpickled_before_every_one_is_verified(
    victim: str, tmp_path: Path, cifar10: TaskData
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in CIFAR10_SHA256:
        (folder / name).symlink_to(DATA / "cifar-10-batches-py" / name)
    (folder / victim).unlink()
    (folder / victim).write_bytes(pickle.dumps(Touch(tmp_path / "harm")))
    with pytest.raises(DataError, match=rf"{victim} is not the CIFAR-10 file.*expected {CIFAR10_SHA256[victim]}"):
        load_task("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()
    pickle.loads((folder / victim).read_bytes())
    assert (tmp_path / "harm").exists()


def test_a_truncated_cifar10_file_is_refused_by_name(tmp_path: Path, cifar10: TaskData) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in CIFAR10_SHA256:
        (folder / name).write_bytes((DATA / "cifar-10-batches-py" / name).read_bytes()[:100])
    with pytest.raises(DataError, match=r"data_batch_1 is not the CIFAR-10 file.*of 100 bytes, expected 54636561a3ce"):
        load_task("cifar10", tmp_path)


def draw_changes(samples: int, seed: int = 0) -> Tensor:
    return TASKS["cifar10"].augmentation(samples, torch.Generator().manual_seed(seed))


def test_the_state_of_the_generator_decides_the_augmentation() -> None:
    assert torch.equal(draw_changes(100), draw_changes(100))
    assert not torch.equal(draw_changes(100), draw_changes(100, seed=1))
    generator = torch.Generator().manual_seed(0)
    first, second = (TASKS["cifar10"].augmentation(100, generator) for _ in range(2))
    assert torch.equal(first, draw_changes(100))
    assert not torch.equal(first, second)


def test_the_augmentation_of_cifar10_has_the_published_distributions() -> None:
    samples = 100_000
    degrees, right, down, mirrored = draw_changes(samples).unbind(1)
    assert degrees.abs().max() <= 15
    assert degrees.mean() == pytest.approx(0, abs=5 * 15 / (3 * samples) ** 0.5)
    assert degrees.std() == pytest.approx(15 / 3**0.5, rel=0.01)
    for pixels in (right, down):
        # Uniform in ±3.2 pixels, rounded: the two outermost values are the rarer ones.
        values, counts = np.unique(pixels.numpy(), return_counts=True)
        assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
        np.testing.assert_allclose(counts / samples, np.array([0.7, 1, 1, 1, 1, 1, 0.7]) / 6.4, atol=0.006)
    assert set(mirrored.tolist()) == {0, 1}
    assert mirrored.mean() == pytest.approx(0.5, abs=0.008)
    correlations = np.corrcoef(draw_changes(samples).T.numpy()) - np.eye(4)
    assert np.abs(correlations).max() < 5 / samples**0.5


def test_augmented_cifar10_images_are_those_of_torchvision(cifar10: TaskData) -> None:
    from torchvision.transforms.v2.functional import affine, horizontal_flip

    images, changes = torch.from_numpy(cifar10.train_inputs[:1000]), draw_changes(1000)
    expected = []
    for image, (degrees, right, down, mirrored) in zip(images, changes.tolist(), strict=True):
        moved = affine(image, degrees, [int(right), int(down)], 1.0, [0.0, 0.0], fill=[-1.0] * 3)
        expected.append(horizontal_flip(moved) if mirrored else moved)
    differs = (TASKS["cifar10"].augment(images, changes) != torch.stack(expected)).any(dim=1)
    # A place half-way between two pixels may round to either, for torchvision computes it another way; all 10,000 test
    # images have one such pixel.
    assert differs.float().mean() < 1e-5


def test_an_augmented_image_does_not_depend_on_its_batch(cifar10: TaskData) -> None:
    task, images, changes = TASKS["cifar10"], torch.from_numpy(cifar10.test_inputs[:210]), draw_changes(210)
    whole = task.augment(images, changes)
    for size in (1, 7, 64):
        parts = [slice(start, start + size) for start in range(0, 210, size)]
        assert torch.equal(torch.cat([task.augment(images[part], changes[part]) for part in parts]), whole)


def test_no_change_gives_images_back_exactly_and_a_mirrored_mirror_image_too(cifar10: TaskData) -> None:
    task, images = TASKS["cifar10"], torch.from_numpy(cifar10.test_inputs[:100])
    nothing = torch.zeros(100, 4)
    assert torch.equal(task.augment(images, nothing), images)
    mirror = nothing.clone()
    mirror[:, 3] = 1
    assert torch.equal(task.augment(images, mirror), images.flip(-1))
    assert torch.equal(task.augment(task.augment(images, mirror), mirror), images)


def test_a_shifted_image_is_black_where_it_has_moved_away(cifar10: TaskData) -> None:
    images = torch.from_numpy(cifar10.test_inputs[:100])
    shifted = TASKS["cifar10"].augment(images, torch.tensor([[0.0, 3.0, -2.0, 0.0]]).expand(100, 4))
    assert torch.equal(shifted[:, :, :30, 3:], images[:, :, 2:, :29])
    assert (shifted[:, :, 30:] == -1).all()
    assert (shifted[:, :, :, :3] == -1).all()


@pytest.mark.parametrize("name", sorted(name for name, task in TASKS.items() if not task.augments))
def test_a_task_whose_recipe_has_no_augmentation_says_so(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"'{name}' has no augmentation"):
        TASKS[name].augmentation(5, torch.Generator())


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's GOOD.", ["it", "'", "s", "good", "."]),
        ('A "classic", (1950)!', ["a", "classic", ",", "(", "1950", ")", "!"]),
        ("One.<br /><br />Two", ["one", ".", "two"]),
        ("why; oh:why?\tSo\n", ["why", "oh", "why", "?", "so"]),
        ("half-way 9/10 $5 déjà", ["half-way", "9/10", "$5", "déjà"]),
        ("...", [".", ".", "."]),
        ('" "', []),
    ],
)
def test_reviews_are_cut_into_tokens_of_basic_english(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def test_tokens_are_numbered_from_1_by_falling_frequency_and_then_by_alphabet() -> None:
    numbers = vocabulary(["b a b", "c a d b"])
    assert numbers == {"b": 1, "a": 2, "c": 3, "d": 4}
    expected = [[1, 0, 4, NO_TOKEN], [NO_TOKEN] * 4, [2, 2, 2, 2]]
    assert encode(["B e d", "", "a a a a"], numbers, 4).tolist() == expected
    with pytest.raises(ValueError, match="could not broadcast"):
        encode(["a a a"], numbers, 2)


def test_imdb_has_its_published_sizes(imdb: TaskData) -> None:
    assert imdb.vocabulary == 100_683
    assert np.bincount(imdb.train_labels).tolist() == [12500, 12500]
    assert np.bincount(imdb.test_labels).tolist() == [12500, 12500]
    assert (imdb.train_inputs != NO_TOKEN).sum(axis=1).max() == 2752
    assert (imdb.test_inputs != NO_TOKEN).sum(axis=1).max() == 2623


def test_only_test_reviews_have_unknown_tokens_and_the_rarest_numbers_come_last(imdb: TaskData) -> None:
    assert imdb.vocabulary is not None
    counts = np.bincount(imdb.train_inputs[imdb.train_inputs != NO_TOKEN], minlength=imdb.vocabulary)
    assert counts[0] == 0
    assert (np.diff(counts[1:]) <= 0).all()
    assert counts[-1] == 1
    assert (imdb.test_inputs == 0).any()


def test_missing_imdb_without_a_network_is_one_error_that_says_what_to_do(
    tmp_path: Path, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=rf"IMDB is not in {tmp_path}.*--data DIR or SELF_MODELING_DATA"):
        load_task("imdb", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("truncated", "it cannot be read: .*Parquet.*"),
        ("corrupt", "it cannot be read: .*"),
        ("other columns", "it cannot be read: .*column names don't match"),
        ("other types", "it cannot be read: .*"),
        ("another data set", "SHA-256 [0-9a-f]{12}… of the content of 50 reviews"),
    ],
)
def test_a_wrong_imdb_file_is_refused_by_name(
    damage: str, finding: str, tmp_path: Path, imdb: TaskData, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "imdb"
    folder.mkdir()
    (folder / "test.parquet").write_bytes(b"")
    path = folder / "train.parquet"
    reviews = pa.table({"text": [f"Review {i}." for i in range(50)], "label": [i % 2 for i in range(50)]})
    if damage in ("truncated", "corrupt"):
        content = (DATA / "imdb" / "train.parquet").read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + (b"" if damage == "truncated" else bytes(9999) + content[middle + 9999 :]))
    elif damage == "other columns":
        pq.write_table(reviews.rename_columns(["review", "label"]), path)
    elif damage == "other types":
        pq.write_table(reviews.set_column(1, "label", pa.array(["neg", "pos"] * 25)), path)
    else:
        pq.write_table(reviews, path)
    expected = rf"{path} does not have the IMDB.*\({finding}; expected {IMDB_SHA256['train']}\): it is damaged"
    with pytest.raises(DataError, match=expected):
        load_task("imdb", tmp_path)
    assert capfd.readouterr() == ("", "")


def test_one_changed_label_of_imdb_is_noticed(tmp_path: Path, imdb: TaskData) -> None:
    folder = tmp_path / "imdb"
    folder.mkdir()
    (folder / "test.parquet").write_bytes(b"")
    reviews = pq.read_table(DATA / "imdb" / "train.parquet")
    labels = reviews["label"].to_pylist()
    labels[100] = 1 - labels[100]
    pq.write_table(reviews.set_column(1, "label", pa.array(labels)), folder / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet does not have the IMDB reviews.*of 25,000 reviews"):
        load_task("imdb", tmp_path)


def test_the_order_of_the_reviews_does_not_matter_and_missing_ones_come_from_the_hub(
    tmp_path: Path, imdb: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hub(name: str, **_: object) -> dict[str, datasets.Dataset]:
        """The Hub without a network: the real reviews, the other way around."""
        assert name == "stanfordnlp/imdb"
        tables = {split: pq.read_table(DATA / "imdb" / f"{split}.parquet") for split in IMDB_SHA256}
        return {split: datasets.Dataset(table[::-1].replace_schema_metadata()) for split, table in tables.items()}

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO())
    assert load_task("imdb", tmp_path).digest() == imdb.digest()
    assert sorted(path.name for path in (tmp_path / "imdb").iterdir()) == ["test.parquet", "train.parquet"]


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'minst' is unknown: did you mean 'mnist'.*cifar10, digits, imdb, mnist"):
        load_task("minst")


class Xor(Task):
    """A task of one's own: the whole of what adding one takes, with a line in TASKS."""

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
