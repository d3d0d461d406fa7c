"""The science: tasks, replicated networks, self-modeling and its controls, training and the measures of complexity.

Usable alone, in a notebook or on a machine without Ray, MLflow and Optuna::

    from trainables import TrialConfig, load_task, run_experiment

    data = load_task("digits")
    result = run_experiment(TrialConfig.from_recipe("digits", aux_weight=5.0, seeds=(0, 1)), data)
    result.measurements["val_accuracy"]  # one value per replicate

Reading order: experiment, trial, config, tasks, networks, auxiliary, training, measures, outcomes, rlct, snapshot,
observer.
"""

from typing import TYPE_CHECKING, Any

from trainables.config import (
    PROTOCOL_VERSION,
    NetworkConfig,
    ObserverConfig,
    RlctConfig,
    SelfModelConfig,
    TrainingConfig,
)
from trainables.errors import CheckpointError, CheckpointMismatchError, ConfigError, DataError
from trainables.tasks import TASKS, load_task
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from trainables.experiment import ExperimentResult, estimate_rlct_again, run_experiment
else:

    def __getattr__(name: str) -> Any:
        """Import what runs a trial on first use: it needs PyTorch, which takes two seconds to import."""
        if name not in ("ExperimentResult", "estimate_rlct_again", "run_experiment"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from trainables import experiment

        return getattr(experiment, name)


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
