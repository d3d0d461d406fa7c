"""IMDB film reviews through Hugging Face datasets, verified by their content, as numbered tokens."""

import contextlib
import hashlib
import io
import logging
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainables.config import NetworkConfig, RlctConfig, TrainingConfig, canonical
from trainables.errors import DataError
from trainables.tasks.base import NO_TOKEN, DataShape, InputSpec, Recipe, Task, TaskData
from trainables.tasks.download import fetch_missing

HUB_NAME = "stanfordnlp/imdb"
# SHA-256 of reviews and labels by _canonical_reviews: a file's bytes depend on the program that wrote it.
SHA256 = {
    "train": "5630bddced97d286b05911c0884298387ce1cd3f119d4b97b451f84cb29aa6ab",
    "test": "7c1a20307b859bb8517a8ae79f9e32376b8b50c73a81c952bcc93e5c2ba8469d",
}
UNKNOWN = 0
LONGEST = 2752  # tokens of the longest review
VOCABULARY = 100_683  # different tokens of the training reviews, and the unknown one

# The "basic English" tokenizer of the published experiment, rules in its order.
REPLACEMENTS = (
    ("'", " ' "),
    ('"', ""),
    (".", " . "),
    ("<br />", " "),
    (",", " , "),
    ("(", " ( "),
    (")", " ) "),
    ("!", " ! "),
    ("?", " ? "),
    (";", " "),
    (":", " "),
)


class Imdb(Task):
    """25,000 + 25,000 film reviews, up to 2,752 tokens each: label 0 is negative, 1 positive."""

    name: ClassVar[str] = "imdb"
    summary: ClassVar[str] = "50,000 film reviews, for or against, through Hugging Face datasets"
    needs_data_root: ClassVar[bool] = True
    shape: ClassVar[DataShape] = DataShape(InputSpec((LONGEST,), VOCABULARY), 2, 25_000, 25_000)
    # Premakumar et al. (2024), arXiv 2407.10188, and its released code.
    recipe: ClassVar[Recipe] = Recipe(
        training=TrainingConfig(
            learning_rate=0.1, momentum=0.0, nesterov=False, batch_size=64, epochs=500, validation_fraction=0.1
        ),
        rlct=RlctConfig(step_size=1e-3, localization=10.0, chains=4, draws=1000, batch_size=64),
        network=NetworkConfig(architecture="embedding_bag", hidden_layers=1, width=128),
        accuracy=0.819,
    )

    def load(self, root: Path | None) -> TaskData:
        root = Path("data") if root is None else root
        files = {f"imdb/{split}.parquet": digest for split, digest in SHA256.items()}
        fetch_missing(root, "IMDB", files, _download, _read)
        (train_texts, train_labels), (test_texts, test_labels) = (
            _read(root / name, expected) for name, expected in files.items()
        )
        numbers = vocabulary(train_texts)
        return TaskData(
            task=self.name,
            classes=2,
            train_inputs=encode(train_texts, numbers, LONGEST),
            train_labels=train_labels,
            test_inputs=encode(test_texts, numbers, LONGEST),
            test_labels=test_labels,
            vocabulary=len(numbers) + 1,
        )


def tokenize(text: str) -> list[str]:
    """The tokens of a text: "It's <br />fine." gives it, ', s, fine and a full stop."""
    text = text.lower()
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    return text.split()


def vocabulary(texts: Iterable[str]) -> dict[str, int]:
    """The number of every token in the texts: from 1, by falling frequency, then by alphabet."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenize(text))
    ordered = sorted(counts, key=lambda token: (-counts[token], token))
    return {token: number for number, token in enumerate(ordered, start=UNKNOWN + 1)}


def encode(texts: Sequence[str], numbers: dict[str, int], longest: int) -> np.ndarray:
    """Texts as int32 (n, longest): numbers of the tokens (UNKNOWN if a token has none), then NO_TOKEN.

    Raises:
        ValueError: a text has more than `longest` tokens.
    """
    inputs = np.full((len(texts), longest), NO_TOKEN, np.int32)
    for row, text in zip(inputs, texts, strict=True):
        tokens = [numbers.get(token, UNKNOWN) for token in tokenize(text)]
        row[: len(tokens)] = tokens
    return inputs


def _read(path: Path, expected: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels (n,) of a Parquet file, verified."""
    # datasets takes three seconds to import.
    from datasets import Dataset, Features, Value
    from datasets.exceptions import DatasetGenerationError

    try:
        # datasets converts the file before reading it, and by default keeps the copy in the user's home.
        with tempfile.TemporaryDirectory() as cache, _quietly():
            reviews = Dataset.from_parquet(
                str(path),
                features=Features({"text": Value("string"), "label": Value("int64")}),
                cache_dir=cache,
                keep_in_memory=True,
            )[:]
    except DatasetGenerationError as error:
        raise _wrong_file(path, f"it cannot be read: {' '.join(str(error.__cause__).split())}", expected) from error
    texts, labels, found = _canonical_reviews(reviews["text"], reviews["label"])
    if found != expected:
        raise _wrong_file(path, f"SHA-256 {found[:12]}… of the content of {len(texts):,} reviews", expected)
    return texts, np.asarray(labels, np.int64)


def _canonical_reviews(texts: list[str], labels: list[int]) -> tuple[list[str], list[int], str]:
    """The same reviews in an order given by their content, and the SHA-256 of the reviews in this order.

    Copies of the data set differ in order; the samples that a seed holds out must not depend on it.
    """
    lines = [canonical(review) for review in zip(texts, labels, strict=True)]
    order = sorted(range(len(lines)), key=lines.__getitem__)
    digest = hashlib.sha256(b"\n".join(lines[i] for i in order)).hexdigest()
    return [texts[i] for i in order], [labels[i] for i in order], digest


def _wrong_file(path: Path, finding: str, expected: str) -> DataError:
    return DataError(
        f"{path} does not have the IMDB reviews of that split ({finding}; expected {expected}): it is damaged or "
        "another data set's. Delete it and run again with a network connection, or put the original file in its place."
    )


def _download(root: Path) -> None:
    """Write both splits as Parquet files."""
    import datasets

    # Without a connection the Hub's client would retry for half a minute; this fails at once.
    urllib.request.urlopen(f"{datasets.config.HF_ENDPOINT}/api/datasets/{HUB_NAME}", timeout=10).close()
    (root / "imdb").mkdir()
    with tempfile.TemporaryDirectory() as cache, _quietly():
        reviews = datasets.load_dataset(HUB_NAME, cache_dir=cache, keep_in_memory=True)
        for split in SHA256:
            reviews[split].to_parquet(str(root / "imdb" / f"{split}.parquet"))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the progress bars and messages of datasets: a failure is reported by one error."""
    from datasets.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        set_verbosity(before)
