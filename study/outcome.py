"""What a worker reports of a trial: plain numbers and words that travel as JSON."""

import json
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from trainables.config import TrialConfig
from trainables.experiment import ExperimentResult


@dataclass(frozen=True)
class Outcome:
    """The end of a trial, per replicate where a list."""

    measurements: dict[str, list[float]]
    status: str
    replicate_statuses: list[str]
    rlct_verdict: str
    replicate_verdicts: list[str]
    nbeta: float
    initial_loss: list[float]  # of the trained weights, nats
    rlct_per_chain: list[list[float]]  # (R, C)
    seconds: dict[str, float]
    device: str
    host: str

    @classmethod
    def of(cls, result: ExperimentResult, device: str) -> "Outcome":
        return cls(
            measurements={name: values.tolist() for name, values in result.measurements.items()},
            status=result.status,
            replicate_statuses=list(result.statuses),
            rlct_verdict=result.rlct_verdict,
            replicate_verdicts=list(result.rlct.verdicts),
            nbeta=result.rlct.nbeta,
            initial_loss=result.rlct.initial_loss.tolist(),
            rlct_per_chain=result.rlct.per_chain.tolist(),
            seconds=result.seconds,
            device=device,
            host=socket.gethostname(),
        )

    def to_json(self) -> str:
        """One string: Ray Tune would take a nested result apart."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        return cls(**json.loads(text))


def describe_trial(config: TrialConfig) -> str:
    """A trial in a few words: '2x64 aux 5 target 1'."""
    name = f"{config.network.hidden_layers}x{config.network.width} aux {config.self_model.aux_weight:.4g}"
    targets = "+".join(map(str, config.self_model.target_depths))
    return f"{name} target {targets}" if targets else name


def mean_and_error(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean over replicates of each metric (R,), and its standard error as `<name>_se` (none for one replicate)."""
    summary = {}
    for name, replicates in values.items():
        per_replicate = np.asarray(replicates)
        summary[name] = float(per_replicate.mean())
        if len(per_replicate) > 1:
            summary[f"{name}_se"] = float(per_replicate.std(ddof=1) / math.sqrt(len(per_replicate)))
    return summary
