"""Auxiliary tasks: self-modeling, and the controls that replace it to show which effects are its own.

Each is a class and a line in AUXILIARY_TASKS; the network, its training and its measures are the same. A study calls an
auxiliary task its `control`; self-modeling is the control 'none'.

PyTorch takes seconds to import, and a study is checked without it: only functions that compute import it.

Reading order: base, prediction, self_modeling, activation_targets, foreign_targets, regularizers.
"""

from trainables.auxiliary.activation_targets import ActivationTargets
from trainables.auxiliary.base import OPTIONS, AuxiliaryTask, Setting
from trainables.auxiliary.foreign_targets import NoiseTargets, RandomNetworkTargets, ShuffledTargets
from trainables.auxiliary.prediction import PredictionTask
from trainables.auxiliary.regularizers import ActivationPenalty, Dropout, WeightDecay
from trainables.auxiliary.self_modeling import ExtraOutputs, SelfModeling
from trainables.registry import find

AUXILIARY_TASKS: dict[str, type[AuxiliaryTask]] = {
    task.name: task
    for task in (
        SelfModeling,
        WeightDecay,
        Dropout,
        ActivationPenalty,
        ExtraOutputs,
        NoiseTargets,
        ShuffledTargets,
        RandomNetworkTargets,
    )
}

__all__ = [
    "AUXILIARY_TASKS",
    "OPTIONS",
    "ActivationTargets",
    "AuxiliaryTask",
    "PredictionTask",
    "SelfModeling",
    "Setting",
    "get_auxiliary_task",
]


def get_auxiliary_task(name: str) -> type[AuxiliaryTask]:
    """The auxiliary task of that name.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones.
    """
    return find("control", name, AUXILIARY_TASKS)
