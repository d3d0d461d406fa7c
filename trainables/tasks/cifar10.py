"""CIFAR-10 through torchvision, verified file by file, and its augmentation."""

import contextlib
import io
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainables.config import NetworkConfig, RlctConfig, TrainingConfig
from trainables.tasks.base import DataShape, InputSpec, Recipe, Task, TaskData, verify_file
from trainables.tasks.download import fetch_missing

SHA256 = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    "batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
}
SIDE = 32  # pixels


class Cifar10(Task):
    """50,000 + 10,000 colour images of 32×32 pixels, ten classes, scaled to [−1, 1]."""

    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "60,000 colour photographs of 32×32 pixels in ten classes, through torchvision"
    needs_data_root: ClassVar[bool] = True
    shape: ClassVar[DataShape] = DataShape(InputSpec((3, SIDE, SIDE)), 10, 50_000, 10_000)
    augments: ClassVar[bool] = True
    mirrors: ClassVar[bool] = True
    # Premakumar et al. (2024), arXiv 2407.10188, and its released code; the targets are the outputs of the last
    # residual block and of the hidden layer.
    recipe: ClassVar[Recipe] = Recipe(
        training=TrainingConfig(
            optimizer="adam", learning_rate=1e-4, batch_size=64, epochs=250, augment=True, validation_fraction=0.1
        ),
        rlct=RlctConfig(step_size=1e-4, localization=100.0, chains=4, draws=400, batch_size=64),
        network=NetworkConfig(architecture="resnet18", hidden_layers=1, width=2000),
        target_depth="block8+hidden1",
        accuracy=0.92,
    )

    def load(self, root: Path | None) -> TaskData:
        # torchvision takes a second to import.
        from torchvision.datasets import CIFAR10

        root = Path("data") if root is None else root
        files = {f"{CIFAR10.base_folder}/{name}": digest for name, digest in SHA256.items()}
        fetch_missing(root, "CIFAR-10", files, _download, _verify)
        # The files are pickles, and reading a pickle can run code: verify all files before reading any.
        for name, expected in files.items():
            _verify(root / name, expected)
        train, test = CIFAR10(str(root), train=True), CIFAR10(str(root), train=False)
        return TaskData(
            task=self.name,
            classes=10,
            train_inputs=_scaled(train.data),
            train_labels=np.asarray(train.targets, np.int64),
            test_inputs=_scaled(test.data),
            test_labels=np.asarray(test.targets, np.int64),
        )


def _scaled(images: np.ndarray) -> np.ndarray:
    """Bytes (n, 32, 32, 3) to float32 (n, 3, 32, 32) in [−1, 1]."""
    # In place: a copy of the training images takes 600 MB.
    scaled = np.empty((len(images), 3, SIDE, SIDE), np.float32)
    np.divide(images.transpose(0, 3, 1, 2), np.float32(127.5), out=scaled)
    scaled -= np.float32(1)
    return scaled


def _verify(path: Path, expected: str) -> None:
    verify_file(path, expected, "CIFAR-10")


def _download(root: Path) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        # Not CIFAR10(download=True): it would also read the files, before they are verified.
        download_and_extract_archive(CIFAR10.url, str(root), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
