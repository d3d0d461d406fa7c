"""scikit-learn's handwritten digits: 1,797 real 8×8 images that come with the library."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from trainables.config import RlctConfig, TrainingConfig
from trainables.tasks.base import DataShape, InputSpec, Recipe, Task, TaskData


class Digits(Task):
    """1,797 images of 8×8 pixels, ten classes, scaled to [−1, 1]."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "1,797 handwritten digits of 8×8 pixels, embedded in scikit-learn"
    needs_data_root: ClassVar[bool] = False
    shape: ClassVar[DataShape] = DataShape(InputSpec((1, 8, 8)), 10, 1437, 360)
    augments: ClassVar[bool] = True
    # The MNIST recipe, scaled to a data set forty times smaller: smaller batches, a larger learning rate, and rlct
    # settings at which the networks of the quickstart study are sound.
    recipe: ClassVar[Recipe] = Recipe(
        training=TrainingConfig(learning_rate=0.02, batch_size=64, epochs=60, validation_fraction=0.2),
        rlct=RlctConfig(step_size=3e-4, localization=30.0, draws=600, batch_size=128),
        local_rlct=RlctConfig(nbeta="dataset", localization=200.0, step_size=6e-5, draws=600, batch_size=128),
        accuracy=0.967,
    )

    def load(self, root: Path | None) -> TaskData:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        inputs = (digits.images[:, None] / 8.0 - 1.0).astype(np.float32)
        labels = digits.target.astype(np.int64)
        # scikit-learn defines no test split: take one fifth, always the same.
        train_inputs, test_inputs, train_labels, test_labels = train_test_split(
            inputs, labels, test_size=0.2, stratify=labels, random_state=0
        )
        return TaskData(self.name, 10, train_inputs, train_labels, test_inputs, test_labels)
