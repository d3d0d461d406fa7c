"""A driver that is killed while results wait for a server that is away."""

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from study.record.outbox import Outbox, TrialEntry
from study.record.stores import Stores
from tests.services.mlflow_server import RestartableMLflow
from tests.study.commands import Command
from tests.study.synthetic import runs_of

pytestmark = pytest.mark.services

STUDY = {
    "question": "Does anything run again?",
    "task": "digits",
    "replicates": 1,
    "sampler": "grid",
    "space": {"hidden_layers": 1, "width": 8, "aux_weight": [0, 1, 2, 5], "target_depth": 1},
    "training": {"epochs": 3},
    "rlct": {"draws": 8, "chains": 2, "batch_size": 32},
    "observer": {"epochs": 0},
}


def finished_trials(file: Path) -> int:
    """Finished trials in the database of a server, which may be busy."""
    query = "select count(*) from tags join runs using (run_uuid) where key = 'level' and value = 'trial'"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (count,) = database.execute(f"{query} and status = 'FINISHED'").fetchone()
    except sqlite3.Error:
        return 0
    return int(count)


def test_results_that_wait_outlive_a_killed_driver_and_none_is_computed_again(tmp_path: Path) -> None:
    server = RestartableMLflow(tmp_path / "server")
    stores = Stores.under(tmp_path / "runs", tracking_uri=server.uri)
    outbox = Outbox(stores.outbox_folder("small"))
    where = ("--tracking-uri", server.uri)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(STUDY))
    study = ("study.run", "small.yaml", *where, "--runner", "local")
    try:
        server.start()
        with Command.start(tmp_path, *study) as command:
            while finished_trials(tmp_path / "server" / "mlflow.db") < 1:
                assert command.process.poll() is None, command.end()
                time.sleep(0.05)
            server.kill()
            while len(outbox) < 2:
                assert command.process.poll() is None, command.end()
                time.sleep(0.05)
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()
        waiting, damaged = outbox.entries()
        assert damaged == []

        with Command.start(tmp_path, "study", "status", "small", *where) as command:
            assert command.end() == 2
        assert "connection is refused" in command.text
        assert f"{len(waiting)} result(s) wait for the record in {outbox.folder}" in command.text

        server.start()
        with Command.start(tmp_path, *study) as command:
            assert command.end() == 0, command.text
        told = f"{len(waiting)} result(s) that had waited for the record are in it now; none was computed again."
        assert told in command.text
        runs = {run.data.tags["trial_key"]: run for run in runs_of(stores, "small", "tags.level = 'trial'")}
        assert len(runs) == 4
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        for entry in waiting:
            assert isinstance(entry, TrialEntry)
            recorded = runs[entry.trial.key].info
            assert (recorded.start_time, recorded.end_time) == (entry.trial.started, entry.trial.ended)
        assert not outbox.folder.parent.exists()
    finally:
        server.kill()
