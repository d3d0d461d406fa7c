"""A worker's reports on a trial: plain numbers and words, sent as JSON."""

import json
import math
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.layout import NO_ESTIMATE
from trainables.fields import FIELDS
from trainables.making import recipe_values
from trainables.outcomes import STOPPED_EARLY, worst_verdict
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    import pandas as pd

    from trainables.experiment import ExperimentResult, StoppedEarly
    from trainables.rlct import RlctEstimate


# The status_detail of a trial that an exception ended: it has no outcome.
FAILED = "failed"


class Progress(NamedTuple):
    """A trial's stage, and the measures of the epochs since the last report: a value per replicate by name."""

    stage: str
    epochs: list[dict[str, list[float]]]
    host: str = ""  # where the trial runs


@dataclass(frozen=True)
class RlctOutcome:
    """An rlct estimate of R replicates from C chains."""

    per_chain: list[list[float]]  # (R, C)
    initial_loss: list[float]  # (R,), of the trained weights, nats
    nbeta: float
    verdicts: list[str]  # (R,)
    reasons: list[str]  # (R,), the reason for each verdict
    diagnostics: dict[str, list[float]]  # each (R,)
    caveats: list[list[str]] = field(default_factory=list)  # (R, …), what each estimate does not say; older: empty

    @classmethod
    def of(cls, estimate: "RlctEstimate") -> "RlctOutcome":
        return cls(
            per_chain=estimate.per_chain.tolist(),
            initial_loss=estimate.initial_loss.tolist(),
            nbeta=estimate.nbeta,
            verdicts=list(estimate.verdicts),
            reasons=[judgement.reason for judgement in estimate.judgements],
            diagnostics={name: values.tolist() for name, values in vars(estimate.diagnostics).items()},
            caveats=[list(judgement.caveats) for judgement in estimate.judgements],
        )

    @classmethod
    def together(cls, parts: Sequence["RlctOutcome"], order: Sequence[int]) -> "RlctOutcome":
        """The estimates of several groups of replicates as one, in the given order of all replicates."""

        def joined(name: str) -> list[Any]:
            every = [value for part in parts for value in getattr(part, name) or [[]] * len(part.verdicts)]
            return [every[index] for index in order]

        sizes = [len(part.verdicts) for part in parts]
        return cls(
            per_chain=joined("per_chain"),
            initial_loss=joined("initial_loss"),
            nbeta=parts[-1].nbeta,
            verdicts=joined("verdicts"),
            reasons=joined("reasons"),
            diagnostics=joined_by_name([part.diagnostics for part in parts], sizes, order),
            caveats=joined("caveats"),
        )

    @property
    def estimates(self) -> list[float]:
        """Mean over chains of each replicate."""
        return [float(np.mean(chains)) for chains in self.per_chain]

    @property
    def standard_errors(self) -> list[float]:
        """Standard error over chains of each replicate."""
        return [float(np.std(chains, ddof=1) / math.sqrt(len(chains))) for chains in self.per_chain]

    @property
    def verdict(self) -> str:
        """The worst verdict of the replicates."""
        return worst_verdict(self.verdicts)

    @property
    def all_caveats(self) -> list[str]:
        """The caveats of any of the replicates."""
        return sorted({caveat for of_replicate in self.caveats for caveat in of_replicate})

    @property
    def reason(self) -> str:
        """The reason for the worst verdict, at the first replicate that has it."""
        return self.reasons[self.verdicts.index(self.verdict)]


def joined_by_name(
    parts: Sequence[Mapping[str, Sequence[float]]], sizes: Sequence[int], order: Sequence[int]
) -> dict[str, list[float]]:
    """Values by name of several groups of replicates, in the given order of all replicates.

    A group of so many replicates as its size; NaN where it lacks a name.
    """
    names = dict.fromkeys(name for part in reversed(parts) for name in part)
    joined = {}
    for name in names:
        pairs = zip(parts, sizes, strict=True)
        every = [value for part, size in pairs for value in part.get(name, [math.nan] * size)]
        joined[name] = [every[index] for index in order]
    return joined


@dataclass(frozen=True)
class EstimateOutcome:
    """A repeated rlct estimate of a finished trial."""

    rlct: RlctOutcome
    seconds: float
    device: str
    host: str
    node: str = ""  # of Ray

    def to_json(self) -> str:
        """As one string."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "EstimateOutcome":
        """The estimate of `to_json`."""
        fields = json.loads(text)
        return cls(**fields | {"rlct": RlctOutcome(**fields["rlct"])})


@dataclass(frozen=True)
class Stop:
    """Why a trial was stopped early."""

    reason: str  # in a line
    rule: str  # the study's rule of early stopping, as one line


@dataclass(frozen=True)
class Outcome:
    """The final results of a trial; lists have an entry per replicate.

    A trial that was stopped early has the measures of its last epoch, and no rlct.
    """

    measurements: dict[str, list[float]]
    status: str
    replicate_statuses: list[str]
    rlct: RlctOutcome | None
    seconds: dict[str, float]
    device: str
    host: str
    node: str = ""  # of Ray
    stop: Stop | None = None
    # By the name of the measure: of the balanced network, and of single layers.
    further_rlcts: dict[str, RlctOutcome] = field(default_factory=dict)

    @classmethod
    def of(cls, result: "ExperimentResult", device: str, node: str = "") -> "Outcome":
        return cls(
            measurements={name: values.tolist() for name, values in result.measurements.items()},
            status=result.status,
            replicate_statuses=list(result.statuses),
            rlct=RlctOutcome.of(result.rlct),
            seconds=result.seconds,
            device=device,
            host=socket.gethostname(),
            node=node,
            further_rlcts={name: RlctOutcome.of(estimate) for name, estimate in result.further_rlcts.items()},
        )

    @classmethod
    def of_stopped(cls, stopped: "StoppedEarly", stop: Stop, device: str, node: str = "") -> "Outcome":
        return cls(
            measurements={name: values[-1].tolist() for name, values in stopped.history.items()},
            status=STOPPED_EARLY,
            replicate_statuses=[STOPPED_EARLY] * stopped.config.replicates,
            rlct=None,
            seconds=stopped.seconds,
            device=device,
            host=socket.gethostname(),
            node=node,
            stop=stop,
        )

    @property
    def rlct_verdict(self) -> str:
        """The worst verdict of the replicates."""
        return NO_ESTIMATE if self.rlct is None else self.rlct.verdict

    def to_json(self) -> str:
        """As one string: Ray Tune would flatten a nested result."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        fields = json.loads(text)
        measurements = fields["measurements"]
        # Older outcomes use, for the error over chains, the name of the error over replicates.
        if "rlct_se" in measurements:
            measurements["rlct_chain_se"] = measurements.pop("rlct_se")
        kinds = {"rlct": RlctOutcome, "stop": Stop}
        parts = {name: kind(**fields[name]) for name, kind in kinds.items() if fields.get(name) is not None}
        further = {name: RlctOutcome(**each) for name, each in fields.get("further_rlcts", {}).items()}
        return cls(**fields | parts | {"further_rlcts": further})


def describe_trial(config: TrialConfig, varied: Collection[str] = ()) -> str:
    """A trial in a few words: '2x64 aux 5 target 1', 'convnet 3x8 dropout 0.2, kernel_size 5, learning_rate 0.01'.

    Sizes, auxiliary task and target are always named; the network's other fields and the options of self-modeling where
    they differ from the recipe of the task. Task, architecture and everything else are most often the same in a whole
    study: they are named only if they are in `varied`, the names of the fields that differ between the study's trials.
    """
    model, network = config.self_model, config.network
    name = f"{config.task} " if "task" in varied else ""
    name += f"{network.architecture} " if "architecture" in varied else ""
    name += f"{network.hidden_layers}x{network.width} "
    name += f"{'aux' if model.control == 'none' else model.control} {model.aux_weight:.4g}"
    if model.target_depths:
        name += f" target {'+'.join(map(str, model.target_depths))}"
    values, recipe = config.flat(), recipe_values(config.task, network.architecture)
    named = ("architecture", "hidden_layers", "width")
    others = [
        field.name
        for field in FIELDS.values()
        if field.role in ("network", "option") or (field.role == "setting" and field.name in varied)
        if field.name not in named and values[field.name] != recipe[field.name]
    ]
    return ", ".join([name, *(f"{other} {_short(values[other])}" for other in others)])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def mean_and_error(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean over replicates of each metric (R,), and its standard error as `<name>_se` (none for one replicate)."""
    summary = {}
    for name, replicates in values.items():
        per_replicate = np.asarray(replicates)
        summary[name] = float(per_replicate.mean())
        if len(per_replicate) > 1:
            # Of values of which one is infinite it is NaN.
            with np.errstate(invalid="ignore"):
                summary[f"{name}_se"] = float(per_replicate.std(ddof=1) / math.sqrt(len(per_replicate)))
    return summary


def epochs_of(history: "pd.DataFrame") -> list[dict[str, list[float]]]:
    """The measures of every epoch of a trial's history: a value per replicate by name."""
    names = [name for name in history.columns if name not in ("epoch", "replicate", "seed")]
    return [{name: of_epoch[name].tolist() for name in names} for _, of_epoch in history.groupby("epoch", sort=True)]
