"""IMDB: the published data, how reviews become tokens, and wrong files in place of the real ones."""

import io
import urllib.request
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainables.small_files import LONGEST, VOCABULARY
from trainables import DataError, load_task
from trainables.tasks import NO_TOKEN, TaskData
from trainables.tasks.imdb import SHA256, encode, tokenize, vocabulary


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


def test_small_reviews_are_numbered_as_the_real_ones_are(small_files: Callable[[str], Path]) -> None:
    data = load_task("imdb", small_files("imdb"))
    assert data.vocabulary == VOCABULARY
    full_stop = 1  # no token is more frequent
    ends = (data.train_inputs != NO_TOKEN).sum(axis=1) - 1
    assert ends.max() == LONGEST - 1
    assert (data.train_inputs[np.arange(len(ends)), ends] == full_stop).all()
    assert (data.train_inputs != 0).all()
    assert (data.test_inputs == 0).any()
    for labels, inputs in ((data.train_labels, data.train_inputs), (data.test_labels, data.test_inputs)):
        first_words = {label: set(inputs[labels == label, 0]) for label in (0, 1)}
        assert [len(words) for words in first_words.values()] == [1, 1]
        assert first_words[0] != first_words[1]


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
    damage: str, finding: str, small_files: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    root = small_files("imdb")
    path = root / "imdb" / "train.parquet"
    reviews = pa.table({"text": [f"Review {i}." for i in range(50)], "label": [i % 2 for i in range(50)]})
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "corrupt":
        path.write_bytes(content[:4] + bytes(100) + content[104:])
    elif damage == "other columns":
        pq.write_table(reviews.rename_columns(["review", "label"]), path)
    elif damage == "other types":
        pq.write_table(reviews.set_column(1, "label", pa.array(["neg", "pos"] * 25)), path)
    else:
        pq.write_table(reviews, path)
    expected = rf"{path} does not have the IMDB.*\({finding}; expected {SHA256['train']}\): it is damaged"
    with pytest.raises(DataError, match=expected):
        load_task("imdb", root)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_does_not_have_the_published_reviews_is_refused(tmp_path: Path) -> None:
    (tmp_path / "imdb").mkdir()
    for split in SHA256:
        pq.write_table(pa.table({"text": ["Good."], "label": [1]}), tmp_path / "imdb" / f"{split}.parquet")
    with pytest.raises(DataError, match=r"train.parquet does not have the IMDB reviews.*expected 5630bddced97"):
        load_task("imdb", tmp_path)


def test_one_changed_label_of_imdb_is_noticed(small_files: Callable[[str], Path]) -> None:
    root = small_files("imdb")
    path = root / "imdb" / "train.parquet"
    reviews = pq.read_table(path)
    labels = reviews["label"].to_pylist()
    labels[10] = 1 - labels[10]
    pq.write_table(reviews.set_column(1, "label", pa.array(labels)), path)
    with pytest.raises(DataError, match=r"train.parquet does not have the IMDB reviews.*of 20 reviews"):
        load_task("imdb", root)


def test_the_order_of_the_reviews_does_not_matter_and_missing_ones_come_from_the_hub(
    tmp_path: Path, small_files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = small_files("imdb")

    def hub(name: str, **_: object) -> dict[str, datasets.Dataset]:
        """The Hub without a network: the same reviews, in reverse order."""
        assert name == "stanfordnlp/imdb"
        tables = {split: pq.read_table(root / "imdb" / f"{split}.parquet") for split in SHA256}
        return {split: datasets.Dataset(table[::-1].replace_schema_metadata()) for split, table in tables.items()}

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO())
    downloaded = tmp_path / "downloaded"
    assert load_task("imdb", downloaded).digest() == load_task("imdb", root).digest()
    assert sorted(path.name for path in (downloaded / "imdb").iterdir()) == ["test.parquet", "train.parquet"]
