"""A trial that got more replicates has a new run, and the former one no longer counts."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from analysis import AnalysisError, read_record
from analysis.layout import Artifact, Level, Tag
from analysis.tracking import open_study, runs_at
from study.record.stores import Stores
from tests.analysis.open_space import sweep_of, write_trials
from tests.study.stores import fresh_stores
from tests.study.synthetic import runs_of

STUDY = "growing"
SETTINGS = "0123abcd"


@dataclass(frozen=True)
class Grown:
    """A study of one trial, which has runs with ever more replicates."""

    stores: Stores
    runs: list[str]  # of the trial, with 1, 2, 3, … replicates

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.stores.tracking_uri)

    def supersede(self, later: int, former: int) -> None:
        self.client.set_tag(self.runs[later], Tag.SUPERSEDES, self.runs[former])

    def seeds(self) -> list[int]:
        """The seeds of the replicates that count."""
        record = read_record(self.stores.tracking_uri, STUDY)
        assert record.trials["replicates"].tolist() == [len(record.replicates)]
        assert set(record.source.trials) == set(record.trials["run_id"])
        return record.replicates["seed"].tolist()


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    """Three runs of one trial, one under the other in no way yet."""
    stores = fresh_stores(tmp_path / "store")
    runs: list[str] = []
    for replicates in (1, 2, 3):
        (config,) = sweep_of((1.0,), seeds=tuple(range(replicates)))
        write_trials(stores, STUDY, [config], tmp_path / "files")
        client = MlflowClient(stores.tracking_uri)
        found = runs_of(stores, STUDY, "tags.level = 'trial'")
        (new,) = [run.info.run_id for run in found if run.info.run_id not in runs]
        runs.append(new)
        # The same key whatever the seeds.
        for run in [new, *(run.info.run_id for run in runs_of(stores, STUDY) if run.data.tags.get(Tag.PARENT) == new)]:
            client.set_tag(run, Tag.TRIAL_KEY, "the-trial")
    return Grown(stores, runs)


def test_the_run_with_more_replicates_counts_alone(grown: Grown) -> None:
    grown.supersede(1, 0)
    grown.supersede(2, 1)
    assert grown.seeds() == [0, 1, 2]


@pytest.mark.parametrize("deleted", [[0], [1], [0, 1]])
def test_a_former_run_does_not_count_whichever_of_them_are_deleted(grown: Grown, deleted: list[int]) -> None:
    grown.supersede(1, 0)
    grown.supersede(2, 1)
    for number in deleted:
        grown.client.delete_run(grown.runs[number])
    assert grown.seeds() == [0, 1, 2]


@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "KILLED"])
def test_a_run_that_is_not_finished_supersedes_nothing(grown: Grown, state: str) -> None:
    grown.supersede(1, 0)
    grown.supersede(2, 1)
    grown.client.update_run(grown.runs[2], status=state)
    assert grown.seeds() == [0, 1]


def test_a_former_run_counts_again_once_the_later_ones_are_deleted(grown: Grown) -> None:
    grown.supersede(1, 0)
    grown.supersede(2, 1)
    grown.client.delete_run(grown.runs[2])
    assert grown.seeds() == [0, 1]
    grown.client.delete_run(grown.runs[1])
    assert grown.seeds() == [0]


def test_estimates_of_a_former_run_do_not_count(grown: Grown) -> None:
    client = grown.client
    (experiment,) = {run.info.experiment_id for run in runs_of(grown.stores, STUDY)}
    former = client.get_run(grown.runs[1]).data
    estimate = client.create_run(
        experiment,
        tags={
            Tag.LEVEL: Level.ESTIMATE,
            Tag.PARENT: grown.runs[1],
            Tag.RLCT_SETTINGS: SETTINGS,
            Tag.NBETA: "1",
            **{name: former.tags[name] for name in (Tag.TRIAL_KEY, Tag.STATUS, Tag.VERDICT)},
        },
    ).info.run_id
    client.log_dict(
        estimate, {"rlct": [1, 2], "rlct_chain_se": [0.1, 0.1], "rlct_verdict": ["sound"] * 2}, Artifact.ESTIMATE
    )
    client.set_terminated(estimate)
    client.delete_run(grown.runs[0])
    client.delete_run(grown.runs[2])
    assert read_record(grown.stores.tracking_uri, STUDY, SETTINGS).replicates["rlct"].tolist() == [1, 2]
    client.restore_run(grown.runs[2])
    grown.supersede(2, 1)
    client.delete_run(grown.runs[1])
    _, runs = open_study(grown.stores.tracking_uri, STUDY)
    assert runs_at(runs, Level.ESTIMATE) == []
    with pytest.raises(AnalysisError, match="none was estimated again"):
        read_record(grown.stores.tracking_uri, STUDY, SETTINGS)
