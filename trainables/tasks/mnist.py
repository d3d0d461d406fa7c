"""MNIST, downloaded by torchvision and verified file by file."""

import contextlib
import io
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainables.config import RlctConfig, TrainingConfig
from trainables.tasks.base import DataShape, InputSpec, Recipe, Task, TaskData, verify_file
from trainables.tasks.download import fetch_missing

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class Mnist(Task):
    """60,000 + 10,000 images of 28×28 pixels, ten classes, scaled to [−1, 1]."""

    name: ClassVar[str] = "mnist"
    summary: ClassVar[str] = "70,000 handwritten digits of 28×28 pixels, through torchvision"
    needs_data_root: ClassVar[bool] = True
    shape: ClassVar[DataShape] = DataShape(InputSpec((1, 28, 28)), 10, 60_000, 10_000)
    augments: ClassVar[bool] = True
    # Premakumar et al. (2024), arXiv 2407.10188, and its released code.
    recipe: ClassVar[Recipe] = Recipe(
        training=TrainingConfig(learning_rate=0.005, batch_size=512, epochs=50, validation_fraction=0.1),
        rlct=RlctConfig(step_size=1e-4, localization=100.0, chains=4, draws=1000, batch_size=512),
        local_rlct=RlctConfig(nbeta="dataset", localization=6000.0, step_size=1e-6, draws=1000, batch_size=512),
        accuracy=0.97,
    )

    def load(self, root: Path | None) -> TaskData:
        root = Path("data") if root is None else root
        files = {f"MNIST/raw/{name}": digest for name, digest in SHA256.items()}
        fetch_missing(root, "MNIST", files, _download, _verify)
        for name, expected in files.items():
            _verify(root / name, expected)
        train_images, train_labels, test_images, test_labels = (_read_idx(root / name) for name in files)
        return TaskData(
            task=self.name,
            classes=10,
            train_inputs=_scaled(train_images),
            train_labels=train_labels.astype(np.int64),
            test_inputs=_scaled(test_images),
            test_labels=test_labels.astype(np.int64),
        )


def _read_idx(path: Path) -> np.ndarray:
    """The bytes of an IDX file as an array: two zeros, a type, the number of dimensions, the sizes, and the content.

    torchvision could read it too, but takes a second to import.
    """
    content = path.read_bytes()
    dimensions = content[3]
    sizes = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


def _scaled(images: np.ndarray) -> np.ndarray:
    """Bytes (n, 28, 28) to float32 (n, 1, 28, 28) in [−1, 1]."""
    # In place: each copy of the training images takes 190 MB.
    scaled = images[:, None].astype(np.float32)
    scaled /= np.float32(127.5)
    scaled -= np.float32(1)
    return scaled


def _verify(path: Path, expected: str) -> None:
    verify_file(path, expected, "MNIST")


def _download(root: Path) -> None:
    from torchvision.datasets import MNIST

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        MNIST(str(root), download=True)
