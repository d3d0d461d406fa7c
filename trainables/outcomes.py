"""Statuses of replicates and verdicts on the rlct, as data: name, meaning, and whether the values count."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

StatusName = Literal["ok", "not_reached", "stopped_early", "impaired", "collapsed", "diverged"]
RlctVerdict = Literal["sound", "drifting", "chains_disagree", "biased", "not_a_minimum", "diverged"]
RlctCaveat = Literal["not_local"]


# The status of all replicates of a trial that was stopped before its end, on request.
STOPPED_EARLY: StatusName = "stopped_early"


@dataclass(frozen=True)
class Status:
    """Status of a replicate after training."""

    name: StatusName
    meaning: str
    usable: bool  # whether the replicate's measures can be compared with those of other networks
    why: str  # why it is usable, or why not


@dataclass(frozen=True)
class Verdict:
    """How far an estimate of the rlct can be trusted."""

    name: RlctVerdict
    meaning: str
    advice: str  # what to change, one line
    usable: bool  # whether the number is an rlct, by which networks can be ranked
    why: str  # why it is usable, or why not


@dataclass(frozen=True)
class Caveat:
    """What an estimate of the rlct does not say, however good its verdict is."""

    name: RlctCaveat
    meaning: str
    advice: str  # what to change, one line


# From best to worst; a trial's status is the worst of its replicates'.
STATUSES: dict[str, Status] = {
    status.name: status
    for status in (
        Status(
            name="ok",
            meaning="The network was trained to its end and classifies better than chance.",
            usable=True,
            why="It learned something.",
        ),
        Status(
            name="not_reached",
            meaning="The training loss never came down to until_loss.",
            usable=False,
            why="Networks are compared at equal loss, and this network has a higher loss.",
        ),
        Status(
            name=STOPPED_EARLY,
            meaning="The trial was stopped before its end, because another one was better at the same epoch.",
            usable=False,
            why="Its values are those of a network in the middle of its training, and it has no rlct.",
        ),
        Status(
            name="impaired",
            meaning="The held-out accuracy is less than a third of the way from chance to that of the recipe's "
            "baseline.",
            usable=False,
            why="Most of the task was not learned, and such a network is not a simpler solution of it.",
        ),
        Status(
            name="collapsed",
            meaning="The held-out accuracy is within noise of always answering one class.",
            usable=False,
            why="A network that learned nothing has small weights and a low rlct without being a simple solution.",
        ),
        Status(
            name="diverged",
            meaning="The training loss is not finite, or far above that of guessing by the classes' frequencies.",
            usable=False,
            why="The weights have grown without bound, and their measures have no meaning.",
        ),
    )
}

# From best to worst; a trial's verdict is the worst of its replicates'.
VERDICTS: dict[str, Verdict] = {
    verdict.name: verdict
    for verdict in (
        Verdict(
            name="sound",
            meaning="The chains agree, stand still and stay above the trained weights' loss.",
            advice="Nothing: the estimate can be used.",
            usable=True,
            why="Every check of the sampler holds.",
        ),
        Verdict(
            name="drifting",
            meaning="The chains have not settled yet.",
            advice="The chains have not settled: take more draws, larger steps or a larger localization.",
            usable=True,
            why="The number is an rlct with an error that its standard error does not show.",
        ),
        Verdict(
            name="chains_disagree",
            meaning="The chains differ by more than a tenth of the estimate, or have too few effective draws.",
            advice="The chains disagree: take more draws, more chains or a larger localization.",
            usable=True,
            why="The number is an rlct with a large error, which its standard error shows.",
        ),
        Verdict(
            name="biased",
            meaning="The finite steps and the noise of the batches may raise the estimate by more than a tenth.",
            advice="The estimate may be too high: take a step_size 3 times smaller and 3 times as many draws, or a "
            "larger batch_size.",
            usable=False,
            why="How much too high it is depends on the curvature, and differs between the networks of a study.",
        ),
        Verdict(
            name="not_a_minimum",
            meaning="The loss falls from the trained weights.",
            advice="The trained weights are no minimum, and the number is no measure of complexity: train longer, or "
            "with a smaller aux_weight or learning rate; changing the sampler's settings does not help.",
            usable=False,
            why="The rlct is defined at a minimum of the loss, and these weights are at none.",
        ),
        Verdict(
            name="diverged",
            meaning="A chain left the neighbourhood of the trained weights, or its loss is not finite.",
            advice="The steps are too large for the curvature, or the batches too small: take a step_size (or nbeta) 3 "
            "to 10 times smaller, or a larger batch_size.",
            usable=False,
            why="The chains did not sample the neighbourhood of the trained weights.",
        ),
    )
}


CAVEATS: dict[str, Caveat] = {
    caveat.name: caveat
    for caveat in (
        Caveat(
            name="not_local",
            meaning="The chains went further from the trained weights than these are from zero.",
            advice="Read the estimate as the coefficient at this nβ and localization, not as one of the neighbourhood "
            "of the trained weights; rlct.protocol 'local' stays near them.",
        ),
    )
}


def worst_status(statuses: Iterable[str]) -> StatusName:
    """The worst of the replicates' statuses."""
    return STATUSES[max(statuses, key=list(STATUSES).index)].name


def worst_verdict(verdicts: Iterable[str]) -> RlctVerdict:
    """The worst of the replicates' verdicts."""
    return VERDICTS[max(verdicts, key=list(VERDICTS).index)].name
