"""A disk that is full while a study runs, whatever lies on it: one clear error, and nothing that has ended is lost."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.engine.execute import Execution, execute
from study.engine.local import LocalRunner
from study.engine.plan import make_plan
from study.engine.resources import Resources
from study.engine.runner import RunTrial
from study.engine.snapshots import SnapshotPlace
from study.errors import StudyError
from study.record.outcome import Outcome
from study.record.recorder import Patience
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.spec import StudySpec, build_spec
from tests.services.disks import SmallDisk, small_disk
from tests.services.test_away import STUDY, assert_same_record, optuna_values
from trainables.tasks import TaskData

pytestmark = pytest.mark.services

MEGABYTES = 24


class Filling:
    """A watcher that fills a disk when the second trial begins, and counts trials."""

    def __init__(self, disk: SmallDisk | None = None):
        self._disk = disk
        self.begun = self.ended = 0
        self.reasons: list[str] = []  # of failures

    def started(self, trial: RunTrial) -> None:
        self.begun += 1
        if self._disk is not None and self.begun == 2:
            self._disk.fill()

    def advanced(self, trial: RunTrial, stage: str) -> None:
        pass

    def finished(self, trial: RunTrial, outcome: Outcome) -> None:
        self.ended += 1

    def failed(self, trial: RunTrial, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", MEGABYTES) as disk:
        yield disk


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    return build_spec(STUDY | {"trials": 3}, "small")


def run(spec: StudySpec, digits: TaskData, stores: Stores, watching: Filling, said: list[str]) -> Execution:
    record = RecordWriter(stores, spec.name)
    runner = LocalRunner(Resources(), SnapshotPlace(stores.snapshots(spec.name), 0.0))
    return execute(
        make_plan(spec, [digits], record),
        record,
        runner,
        watching,
        tell=said.append,
        patience=Patience(between_tries=0.3, at_end=1),
    )


@pytest.fixture(scope="module")
def undisturbed(spec: StudySpec, digits: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    stores = Stores.under(tmp_path_factory.mktemp("undisturbed"))
    assert run(spec, digits, stores, Filling(), []) == Execution(3, 0, interrupted=False)
    return stores


def check_that_it_goes_on(
    spec: StudySpec, digits: TaskData, stores: Stores, undisturbed: Stores, computed: int, said: list[str]
) -> None:
    """The same command computes so many trials, and then all is as if the disk had had room."""
    again = Filling()
    assert run(spec, digits, stores, again, said) == Execution(computed, 0, interrupted=False)
    assert (again.begun, again.ended) == (computed, computed)
    assert_same_record(stores, undisturbed)
    assert optuna_values(stores) == optuna_values(undisturbed)
    assert not (stores.root / "outbox").exists()


@pytest.mark.parametrize("full", ["record", "artifacts"])
def test_results_wait_while_the_disk_of_the_record_or_of_the_artifacts_is_full(
    full: str, disk: SmallDisk, spec: StudySpec, digits: TaskData, undisturbed: Stores, tmp_path: Path
) -> None:
    stores = Stores.under(
        tmp_path / "store",
        tracking_uri=f"sqlite:///{disk.folder}/mlflow.db" if full == "record" else None,
        artifacts_uri=str(disk.folder) if full == "artifacts" else None,
    )
    cause = "database or disk is full" if full == "record" else "No space left on device"
    watching, said = Filling(disk), list[str]()
    with pytest.raises(StudyError, match=rf"is away: .*{cause}.* 2 result\(s\) wait in .*/outbox/small;"):
        run(spec, digits, stores, watching, said)
    assert (watching.begun, watching.ended) == (3, 3)
    assert sum("is away" in text for text in said) == 1
    disk.make_room()
    check_that_it_goes_on(spec, digits, stores, undisturbed, 0, said)
    assert said[-1] == "2 result(s) that had waited for the record are in it now; none was computed again."


def test_results_lie_among_the_temporary_files_while_the_disk_of_the_whole_store_is_full(
    disk: SmallDisk,
    spec: StudySpec,
    digits: TaskData,
    undisturbed: Stores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stores = Stores.under(disk.folder / "store")
    outbox = stores.outbox_folder(spec.name)
    watching = Filling(disk)
    with pytest.raises(StudyError, match=rf"2 result.* wait in .*small-outbox-.*move them to {outbox} first"):
        run(spec, digits, stores, watching, [])
    assert (watching.begun, watching.ended) == (3, 3)
    assert "No snapshot could be written to" in caplog.text
    disk.make_room()
    outbox.mkdir(parents=True, exist_ok=True)
    for folder in tmp_path.glob("small-outbox-*/*"):
        shutil.move(folder, outbox)
    check_that_it_goes_on(spec, digits, stores, undisturbed, 0, [])


def test_a_study_without_room_for_temporary_files_ends_at_once_and_goes_on_when_there_is_room(
    disk: SmallDisk,
    spec: StudySpec,
    digits: TaskData,
    undisturbed: Stores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    stores = Stores.under(tmp_path / "store")
    watching = Filling(disk)
    with pytest.raises(StudyError, match=rf"cannot be written to {disk.folder}: .*No space left.* TMPDIR .*same comm"):
        run(spec, digits, stores, watching, [])
    assert (watching.begun, watching.ended, watching.reasons) == (2, 1, []), "no other trial is computed in vain"
    disk.make_room()
    check_that_it_goes_on(spec, digits, stores, undisturbed, 2, [])
