"""Several studies of one store as one record, made of what they share.

A trial that several studies have (the same key) counts once, with the replicates of all of them, each seed once; it is
listed under the study named first. One that a study has stopped early counts as another study has trained it. Settings
in which the studies differ are dimensions. So is the study itself if trials of two studies agree in all else, as after
a change of the seeds: then each study has baselines of its own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import pandas as pd
from pydantic import ValidationError

from analysis.description import Description, Dimension, Outcome, Role
from analysis.errors import AnalysisError
from analysis.freshness import ReportSource
from analysis.layout import CHAIN_ERROR_SUFFIX, PROTOCOL_VERSION, REPLICATES, SEED, STOPPED_EARLY, Tag
from analysis.record import CAVEATS, STATUS, VERDICT, StudyRecord
from analysis.table import arranged, read_record, trial_table
from analysis.values import as_value, differs, sortable

STUDY = "study"
# Columns of a table of replicates that tell which replicate it is, and how it ended.
IDENTITY = (STUDY, "trial_key", "replicate", STATUS, VERDICT, "run_id", REPLICATES, SEED)
_Part = TypeVar("_Part", Dimension, Outcome)


def read_records(tracking_uri: str, studies: Sequence[str], rlct: str | None = None) -> StudyRecord:
    """Read the finished trials of one study, or of several as one record.

    Args:
        tracking_uri: the tracking store, which has all of them.
        studies: their names; one that is given twice counts once.
        rlct: as for `read_record`; every study needs estimates with these settings.

    Raises:
        AnalysisError: as for `read_record` and `join_records`.
    """
    records = [read_record(tracking_uri, study, rlct) for study in dict.fromkeys(studies)]
    return records[0] if len(records) == 1 else join_records(records)


def join_records(records: Sequence[StudyRecord]) -> StudyRecord:
    """The records of several studies as one.

    It has the trials and dimensions of all of them, and the measures and objectives that all of them have.

    Raises:
        AnalysisError: they share no objective, or had different data for one task, or name the parts of a trial
            differently.
    """
    _check_data(records)
    objectives = _shared_objectives(records)
    description = _joined_description(records)
    replicates = pd.concat([_with_defaults(record, description) for record in records], ignore_index=True)
    trained = replicates[STATUS] != STOPPED_EARLY
    replicates = replicates[trained | ~replicates["trial_key"].isin(replicates.loc[trained, "trial_key"])]
    replicates = replicates.drop_duplicates(["trial_key", SEED], ignore_index=True)
    ends = _joined_ends(records, replicates)
    replicates[STUDY] = replicates.groupby("trial_key")[STUDY].transform("first")
    measures = {name for record in records for name in record.measures}
    others = measures.difference(description.measures_among(measures))
    replicates = replicates.drop(columns=[*others, *(name + CHAIN_ERROR_SUFFIX for name in others)], errors="ignore")
    description = _with_more_dimensions(description, replicates)
    if PROTOCOL_VERSION not in description.names_of("setting"):
        replicates = replicates.drop(columns=PROTOCOL_VERSION)
    replicates = arranged(replicates, description, objectives)
    first = records[0]
    settings = [record.rlct_settings for record in records]
    tags = _joined_tags([record.tags for record in records])
    return StudyRecord(
        study="+".join(record.study for record in records),
        tags=tags,
        objectives=objectives,
        replicates=replicates,
        trials=trial_table(replicates, description, ends),
        rlct_settings={name: value for name, value in first.rlct_settings.items() if _all_have(settings, name, value)},
        description=description,
        source=ReportSource(
            {run: end for record in records for run, end in record.source.trials.items()},
            objectives,
            tags.get(Tag.QUESTION, ""),
            first.source.rlct,
        ),
        data=frozenset().union(*(record.data for record in records)),
    )


def _check_data(records: Sequence[StudyRecord]) -> None:
    """Refuse studies that had different data for one task."""
    digests: dict[str, dict[str, list[str]]] = {}
    for record in records:
        for task, digest in sorted(record.data):
            digests.setdefault(task, {}).setdefault(digest, []).append(record.study)
    for task, of_task in digests.items():
        if len(of_task) > 1:
            listed = "; ".join(f"{', '.join(studies)}: digest {digest[:8]}" for digest, studies in of_task.items())
            raise AnalysisError(
                f"the studies had different data for the task {task!r} ({listed}), so that their trials cannot be "
                "compared: analyse each alone."
            )


def _shared_objectives(records: Sequence[StudyRecord]) -> dict[str, str]:
    """The objectives that all have with the same direction, in the order of the first."""
    every = [record.objectives for record in records]
    shared = {name: way for name, way in every[0].items() if _all_have(every, name, way)}
    if not shared:
        listed = "".join(
            f"\n  {record.study}: {', '.join(f'{way} {name}' for name, way in record.objectives.items())}"
            for record in records
        )
        raise AnalysisError(f"the studies share no objective, so that they have no front together:{listed}")
    return shared


def _joined_description(records: Sequence[StudyRecord]) -> Description:
    """The dimensions of all, the measures that all describe, the statuses and verdicts of all.

    What two of them describe is taken from one that lists all fields, else from the first.
    """
    # Sorting keeps the order of the studies otherwise.
    every = sorted((record.description for record in records), key=lambda each: not each.lists_all_fields)
    names = [{measure.name for measure in description.measures} for description in every]
    try:
        return Description(
            measures=tuple(each for each in every[0].measures if all(each.name in known for known in names)),
            dimensions=_each_once(each for description in every for each in description.dimensions),
            statuses=_each_once(each for description in every for each in description.statuses),
            verdicts=_each_once(each for description in every for each in description.verdicts),
            caveats=_each_once(each for description in every for each in description.caveats),
        )
    except ValidationError as error:
        reasons = "; ".join(str(each["msg"]) for each in error.errors())
        raise AnalysisError(f"the studies' records do not fit together: {reasons}. Analyse each alone.") from error


def _with_defaults(record: StudyRecord, description: Description) -> pd.DataFrame:
    """The replicates with all dimensions: trials from before a dimension was introduced have its default."""
    table = record.replicates
    absent = [each for each in description.dimensions if each.name not in table]
    version = json.loads(record.tags.get(Tag.PROTOCOL, "{}")).get(PROTOCOL_VERSION)
    return table.assign(**{each.name: as_value(each.default) for each in absent}, **{PROTOCOL_VERSION: version})


def _joined_ends(records: Sequence[StudyRecord], replicates: pd.DataFrame) -> pd.DataFrame:
    """How each trial ended, by its key: over the runs that have some of its replicates, the worst, and all caveats."""
    columns = ["trial_key", STATUS, VERDICT, CAVEATS, "seconds", "run_id"]
    ends = pd.concat(
        [record.trials.reindex(columns=columns).assign(study=record.study) for record in records], ignore_index=True
    )
    contributing = replicates[["trial_key", STUDY]].drop_duplicates()
    by_trial = ends.merge(contributing, on=["trial_key", STUDY]).groupby("trial_key", sort=False)
    statuses = _each_once(each for record in records for each in record.description.statuses)
    verdicts = _each_once(each for record in records for each in record.description.verdicts)
    caveats = {CAVEATS: by_trial[CAVEATS].agg(_all_caveats)} if ends[CAVEATS].notna().any() else {}
    return pd.DataFrame(
        {
            STATUS: by_trial[STATUS].agg(lambda names: _worst(names, statuses)),
            VERDICT: by_trial[VERDICT].agg(lambda names: _worst(names, verdicts)),
            **caveats,
            "seconds": by_trial["seconds"].sum(min_count=1),
            "run_id": by_trial["run_id"].first(),
        }
    )


def _all_caveats(names: pd.Series) -> str | None:
    """The names of all caveats of some runs, each once; None without any."""
    return ", ".join(sorted({each for of_run in names.dropna() for each in of_run.split(", ")})) or None


def _worst(names: pd.Series, outcomes: Sequence[Outcome]) -> str:
    """The worst of these names; one that is not described, such as that of no estimate, is worse than all."""
    order = [outcome.name for outcome in outcomes]
    return str(max(names.tolist(), key=lambda name: order.index(name) if name in order else len(order)))


def _with_more_dimensions(description: Description, replicates: pd.DataFrame) -> Description:
    """The description with the fields that are not described and in which the trials differ; last of them the study."""
    described = {each.name for each in description.dimensions} | set(IDENTITY)
    fields = [
        name
        for name in replicates.columns
        if name not in described and description.measure(name) is None and not name.endswith(CHAIN_ERROR_SUFFIX)
    ]
    more = [_field(name) for name in fields if differs(replicates[name])]
    dimensions = [*description.dimensions, *more]
    if _are_mixed_up(replicates, [each.name for each in dimensions]):
        dimensions.append(Dimension(name=STUDY, meaning="The study that has the trial.", role="setting"))
    return description.model_copy(update={"dimensions": tuple(dimensions)})


def _field(name: str) -> Dimension:
    if name == PROTOCOL_VERSION:
        return Dimension(name=name, meaning="Version of the code: another gives other numbers.", role="setting")
    role: Role = "task" if name == Tag.TASK else "setting"
    return Dimension(name=name, meaning="A field of the trial's configuration.", role=role)


def _are_mixed_up(replicates: pd.DataFrame, dimensions: Sequence[str]) -> bool:
    """Whether trials of two studies agree in all dimensions."""
    trials = replicates.drop_duplicates("trial_key")
    places = pd.DataFrame({name: sortable(trials[name]) for name in dimensions})
    return bool((trials[STUDY].groupby([places[name] for name in dimensions]).nunique() > 1).any())


def _joined_tags(every: Sequence[dict[str, str]]) -> dict[str, str]:
    """The tags of all studies' runs: different values one after the other; of the protocol what all share."""
    joined = {}
    for name in dict.fromkeys(name for tags in every for name in tags):
        values = dict.fromkeys(tags[name] for tags in every if name in tags)
        joined[name] = (" " if name == Tag.QUESTION else "; ").join(values)
    protocols = [json.loads(tags[Tag.PROTOCOL]) for tags in every]
    shared = {name: value for name, value in protocols[0].items() if _all_have(protocols, name, value)}
    return joined | {Tag.PROTOCOL.value: json.dumps(shared)}


def _all_have(mappings: Sequence[Mapping[str, object]], name: str, value: object) -> bool:
    return all(name in each and each[name] == value for each in mappings)


def _each_once(parts: Iterable[_Part]) -> tuple[_Part, ...]:
    """The first part of each name."""
    first: dict[str, _Part] = {}
    for part in parts:
        first.setdefault(part.name, part)
    return tuple(first.values())
