"""Stores of other versions of this project: what they say is read; that they go on is refused, and how they can."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from analysis import read_record
from analysis.__main__ import main as analyse
from study.commands.main import main as study_command
from study.commands.run import main as run
from tests.kept import COMMITS, FIXTURES, GRID, GRID_SPEC, KeptRecord, unpack_kept_record
from trainables.config import PROTOCOL_VERSION

# Commands that would add something to a study.
GOING_ON = {
    "run": lambda folder: run([str(folder / "kept.yaml"), "--store", str(folder), "--runner", "local"]),
    "plan": lambda folder: run([str(folder / "kept.yaml"), "--store", str(folder), "--plan"]),
    "retry": lambda folder: study_command(["retry", GRID, "--store", str(folder), "--runner", "local"]),
    "estimate": lambda folder: study_command(["rlct", "estimate", GRID, "--store", str(folder), "--runner", "local"]),
}
LARGEST_FIXTURE = 60_000  # bytes of a small store


def unpack(folder: Path, protocol: int) -> KeptRecord:
    """The store, beside the study file that it was made with."""
    (folder / "kept.yaml").write_text(GRID_SPEC)
    return unpack_kept_record(folder, f"record_of_protocol_{protocol}.tar.xz")


def content(folder: Path) -> dict[str, str]:
    """The digest of every file."""
    files = (file for file in folder.rglob("*") if file.is_file() and "locks" not in file.parts)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module", params=sorted(COMMITS))
def protocol(request: pytest.FixtureRequest) -> int:
    version: int = request.param
    return version


@pytest.fixture(scope="module")
def earlier(protocol: int, tmp_path_factory: pytest.TempPathFactory) -> KeptRecord:
    """The store of an earlier version, for reading only."""
    return unpack(tmp_path_factory.mktemp("earlier"), protocol)


def test_there_is_a_store_of_every_earlier_protocol_version() -> None:
    names = {file.name for file in FIXTURES.glob("record_of_protocol_*")}
    assert names == {f"record_of_protocol_{version}.tar.xz" for version in range(1, PROTOCOL_VERSION)}
    for version in COMMITS:
        assert (FIXTURES / f"record_of_protocol_{version}.tar.xz").stat().st_size < LARGEST_FIXTURE


def test_the_status_of_an_earlier_store_is_shown(earlier: KeptRecord, capfd: pytest.CaptureFixture[str]) -> None:
    assert study_command(["status", GRID, "--store", str(earlier.folder), "--json"]) == 0
    seen = json.loads(capfd.readouterr().out)
    assert seen["state"] == "finished"
    assert (seen["trials"]["finished"], seen["trials"]["failed"], seen["trials"]["outside"]) == (2, 0, 0)
    (best,) = (each for each in seen["best"] if each["objective"] == "val_accuracy")
    assert best["trial"] == "1x8 aux 0"
    assert best["value"] == pytest.approx(0.8031, abs=1e-4)


def test_an_earlier_store_is_analysed_with_the_numbers_of_then(earlier: KeptRecord, protocol: int) -> None:
    record = read_record(earlier.tracking_uri, GRID)
    for name, rows in (("trials", ["trial_key"]), ("replicates", ["trial_key", "replicate"])):
        then = pd.read_csv(earlier.folder / "analysed" / f"{name}.csv", keep_default_na=False, na_values=[""])
        if name == "replicates":
            # The standard error over chains then had the name of that over replicates.
            then = then.rename(columns={"rlct_se": "rlct_chain_se"})
        now = getattr(record, name).sort_values(rows, ignore_index=True)
        then = then.sort_values(rows, ignore_index=True)
        assert now[rows].astype(str).equals(then[rows].astype(str))
        numbers = [column for column in then.select_dtypes("number").columns if column in now]
        assert {"val_accuracy", "test_accuracy", "weight_std", "rlct", "train_loss", "self_model_mse"} < set(numbers)
        pd.testing.assert_frame_equal(
            now[numbers].astype(float), then[numbers].astype(float), check_exact=False, rtol=1e-12
        )
    assert analyse([GRID, "--store", str(earlier.folder)]) == 0
    assert (earlier.folder / "reports" / GRID / "report.html").is_file()


@pytest.mark.parametrize("command", GOING_ON)
def test_an_earlier_study_does_not_go_on_and_the_error_names_its_version_and_commit(
    command: str, earlier: KeptRecord, protocol: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = content(earlier.folder)
    assert GOING_ON[command](earlier.folder) == 2
    error = " ".join(capfd.readouterr().err.split())
    assert error.startswith(
        f"error: the study 'kept' in {earlier.tracking_uri} was made by an earlier version of this project: protocol "
        f"version {protocol}, here {PROTOCOL_VERSION}."
    )
    assert f"To go on with it, check out commit {COMMITS[protocol]}" in error
    assert "(--name kept-2)" in error
    assert content(earlier.folder) == before


@pytest.mark.parametrize("command", GOING_ON)
def test_a_later_study_does_not_go_on_and_nothing_is_written(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = unpack(tmp_path, 3)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        (stored,) = database.execute("select value from tags where key = 'protocol'").fetchone()
        later = json.loads(stored) | {"protocol_version": PROTOCOL_VERSION + 1, "training.of_a_later_version": 1}
        database.execute("update tags set value = ? where key = 'protocol'", (json.dumps(later),))
    before = content(tmp_path)
    assert GOING_ON[command](tmp_path) == 2
    error = " ".join(capfd.readouterr().err.split())
    assert (
        f"the study 'kept' in {record.tracking_uri} was made by a later version of this project: protocol version "
        f"{PROTOCOL_VERSION + 1}, here {PROTOCOL_VERSION}."
    ) in error
    assert f"update this checkout to commit {COMMITS[3]}" in error
    assert content(tmp_path) == before
