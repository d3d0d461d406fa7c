"""The science: tasks, replicated networks, the self-model, training and the measures of complexity.

Usable alone, in a notebook or on a machine without Ray, MLflow and Optuna::

    from trainables import TrialConfig, load_task, run_experiment

    data = load_task("digits")
    result = run_experiment(TrialConfig.from_recipe("digits", aux_weight=5.0, seeds=(0, 1)), data)
    result.measurements["val_accuracy"]  # one value per replicate

Reading order: experiment, trial, config, tasks, networks, self_model, controls, training, measures, rlct, observer.
"""

from trainables.config import (
    PROTOCOL_VERSION,
    NetworkConfig,
    ObserverConfig,
    RlctConfig,
    SelfModelConfig,
    TrainingConfig,
)
from trainables.errors import CheckpointError, CheckpointMismatchError, ConfigError, DataError
from trainables.experiment import ExperimentResult, estimate_rlct_again, run_experiment
from trainables.tasks import TASKS, load_task
from trainables.trial import TrialConfig

__all__ = [
    "PROTOCOL_VERSION",
    "TASKS",
    "CheckpointError",
    "CheckpointMismatchError",
    "ConfigError",
    "DataError",
    "ExperimentResult",
    "NetworkConfig",
    "ObserverConfig",
    "RlctConfig",
    "SelfModelConfig",
    "TrainingConfig",
    "TrialConfig",
    "estimate_rlct_again",
    "load_task",
    "run_experiment",
]
