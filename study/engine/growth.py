"""Trials that get more replicates: what is left to run of each, and the merging of both groups of replicates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from analysis.layout import Artifact
from study.errors import first_line
from study.record.outcome import Outcome, RlctOutcome, epochs_of, joined_by_name
from trainables.errors import CheckpointError
from trainables.outcomes import STOPPED_EARLY, worst_status
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    import pandas as pd

    from study.record.reader import FinishedTrial, RecordReader

_Value = TypeVar("_Value")
# The files of a trial that a merge needs.
MERGED = (Artifact.OUTCOME, Artifact.HISTORY, Artifact.CHECKPOINT, Artifact.RLCT_TRACE)


class MergeError(Exception):
    """The earlier result of a trial lacks a file, or has one that cannot be merged."""


class Growth(NamedTuple):
    """A finished trial that gets more replicates."""

    key: str
    config: TrialConfig  # with the seeds that are missing
    earlier: "FinishedTrial"

    @property
    def whole(self) -> TrialConfig:
        """The trial with the seeds of all its replicates, sorted."""
        seeds = tuple(sorted((*self.earlier.seeds, *self.config.seeds)))
        return self.config.model_copy(update={"seeds": seeds})

    @property
    def stopping(self) -> None:
        """It is not stopped early: its first replicates were not."""


def growth_of(key: str, earlier: "FinishedTrial", seeds: Iterable[int]) -> Growth | None:
    """What is left to run of a finished trial that should have these seeds; None if it has them all.

    A trial that was stopped early gets no further replicates.
    """
    if earlier.status == STOPPED_EARLY:
        return None
    missing = tuple(seed for seed in seeds if seed not in earlier.seeds)
    return Growth(key, earlier.config.model_copy(update={"seeds": missing}), earlier) if missing else None


@dataclass(frozen=True)
class Group:
    """The result of some replicates of a trial, without the weights."""

    seeds: tuple[int, ...]
    outcome: Outcome
    history: "pd.DataFrame"  # a row per epoch and replicate
    trace: "pd.DataFrame"  # a row per draw, replicate and chain

    @classmethod
    def read(cls, folder: Path, seeds: tuple[int, ...]) -> "Group":
        """The result in a folder of a trial's files."""
        import pandas as pd

        return cls(
            seeds,
            Outcome.from_json((folder / Artifact.OUTCOME).read_text()),
            pd.read_parquet(folder / Artifact.HISTORY),
            pd.read_parquet(folder / Artifact.RLCT_TRACE),
        )


def fetch_earlier(growth: Growth, record: "RecordReader", folder: Path) -> Group:
    """Fetch the earlier files of a trial into a folder, and check that others can be merged with them.

    Raises:
        MergeError: a file is missing or corrupt, or belongs to other code.
        StudyError: the record cannot be reached.
    """
    from trainables.checkpoint import load_checkpoint

    for artifact in MERGED:
        if not record.has_artifact(growth.earlier.run_id, artifact):
            raise _unmergeable(growth, f"{artifact} is missing")
        place = folder / artifact
        place.parent.mkdir(parents=True, exist_ok=True)
        # MLflow puts a file by its name alone.
        record.download(growth.earlier.run_id, artifact, place.parent)
    try:
        group = Group.read(folder, growth.earlier.seeds)
        checkpoint = load_checkpoint(folder / Artifact.CHECKPOINT)
    except CheckpointError as error:
        raise _unmergeable(growth, first_line(error)) from error
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise _unmergeable(growth, f"{type(error).__name__}: {first_line(error)}") from error
    counts = {len(group.outcome.replicate_statuses), group.history["seed"].nunique(), len(growth.earlier.seeds)}
    if (checkpoint.trial_key, checkpoint.config.seeds) != (growth.key, growth.earlier.seeds) or len(counts) > 1:
        raise _unmergeable(growth, "its files are not of the replicates that its run names")
    return group


def merge(growth: Growth, earlier: Path, added: Path, folder: Path) -> tuple[Outcome, list[dict[str, list[float]]]]:
    """Merge two groups of replicates of a trial; write the files of all of them into `folder`, as the record has them.

    Replicates are in the order of their seeds. Each is trained and measured as it would be with all others at once; so
    are the values of its rlct, apart from the random numbers: a group's batches and noise come from its first seed, so
    that estimates differ within the sampler's error from those that all replicates at once would have.

    Returns:
        The outcome over all replicates, and the measures of every epoch, a value per replicate by name.
    """
    from study.engine.worker import write_trace
    from trainables.checkpoint import merge_checkpoints

    groups = [Group.read(earlier, growth.earlier.seeds), Group.read(added, growth.config.seeds)]
    outcome = merge_outcomes(groups)
    history = merge_histories(groups)
    (folder / Artifact.CHECKPOINT).parent.mkdir()
    merge_checkpoints([each / Artifact.CHECKPOINT for each in (earlier, added)], (folder / Artifact.CHECKPOINT).parent)
    history.to_parquet(folder / Artifact.HISTORY, index=False)
    (folder / Artifact.OUTCOME).write_text(outcome.to_json())
    assert outcome.rlct is not None
    write_trace(folder, merge_traces(groups), outcome.rlct)
    return outcome, epochs_of(history)


def merge_outcomes(groups: Sequence[Group]) -> Outcome:
    """The outcome over the replicates of all groups. Measures that one of the groups lacks are NaN there."""
    seeds = [seed for group in groups for seed in group.seeds]
    outcomes = [group.outcome for group in groups]
    order = sorted(range(len(seeds)), key=seeds.__getitem__)

    def joined(parts: Iterable[Sequence[_Value]]) -> list[_Value]:
        every = [value for part in parts for value in part]
        return [every[index] for index in order]

    rlcts = [outcome.rlct for outcome in outcomes if outcome.rlct is not None]
    assert len(rlcts) == len(outcomes), "a trial that was stopped early gets no further replicates"
    statuses = joined(outcome.replicate_statuses for outcome in outcomes)
    stages = dict.fromkeys(stage for outcome in outcomes for stage in outcome.seconds)
    latest = outcomes[-1]
    return Outcome(
        measurements=joined_by_name(
            [outcome.measurements for outcome in outcomes], [len(group.seeds) for group in groups], order
        ),
        status=worst_status(statuses),
        replicate_statuses=statuses,
        rlct=RlctOutcome.together(rlcts, order),
        seconds={stage: sum(outcome.seconds.get(stage, 0.0) for outcome in outcomes) for stage in stages},
        device=", ".join(dict.fromkeys(outcome.device for outcome in outcomes)),
        host=latest.host,
        node=latest.node,
        further_rlcts={
            name: RlctOutcome.together([outcome.further_rlcts[name] for outcome in outcomes], order)
            for name in latest.further_rlcts
        },
    )


def merge_histories(groups: Sequence[Group]) -> "pd.DataFrame":
    """Every epoch of every replicate of all groups.

    Where training stops at a loss, a group ends when its last replicate has stopped; up to the last epoch of the others
    its replicates keep their values, as all do that have stopped.
    """
    import pandas as pd

    last = max(group.history["epoch"].max() for group in groups)
    tables = []
    for group in groups:
        ended = int(group.history["epoch"].max())
        final = group.history[group.history["epoch"] == ended]
        tables += [group.history, *(final.assign(epoch=epoch) for epoch in range(ended + 1, last + 1))]
    return _renumbered(pd.concat(tables), groups).sort_values(["epoch", "replicate"], ignore_index=True)


def merge_traces(groups: Sequence[Group]) -> "pd.DataFrame":
    """Every draw of the rlct sampler for the replicates of all groups."""
    import pandas as pd

    tables = [group.trace.assign(seed=group.trace["replicate"].map(dict(enumerate(group.seeds)))) for group in groups]
    merged = _renumbered(pd.concat(tables), groups).drop(columns="seed")
    return merged.sort_values(["draw", "replicate", "chain"], ignore_index=True)


def _renumbered(table: "pd.DataFrame", groups: Sequence[Group]) -> "pd.DataFrame":
    """The table, which has a column seed, with its replicates numbered in the order of their seeds."""
    numbers = {each: number for number, each in enumerate(sorted(each for group in groups for each in group.seeds))}
    return table.assign(replicate=table["seed"].map(numbers).astype(table["replicate"].dtype))


def _unmergeable(growth: Growth, why: str) -> MergeError:
    return MergeError(
        f"the replicates that this trial has cannot be merged with new ones: {why} (MLflow run "
        f"{growth.earlier.run_id}). They stay as they were. To train all of them again, delete that run in MLflow."
    )
