"""Whole studies on a real PostgreSQL server with passwords."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
from optuna.trial import TrialState

from study.errors import StudyError
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.store import check_storage, opened_storage
from tests.services.postgresql import PASSWORD, PostgreSQL, running_postgresql
from tests.services.studies import command, environment, files_with, run, write_study

pytestmark = pytest.mark.services
LOGIN = {"PGPASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with running_postgresql() as running:
        yield running


def states(server: PostgreSQL, database: str, monkeypatch: pytest.MonkeyPatch) -> list[TrialState]:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    study = optuna.load_study(study_name="small", storage=server.url(database, "postgresql+psycopg2"))
    return [trial.state for trial in study.trials]


def test_a_study_runs_and_goes_on_in_postgresql_and_its_passwords_are_nowhere(
    server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.create("mlflow", "optuna")
    write_study(tmp_path, trials=3)
    places = ("--tracking-uri", server.url("mlflow"), "--optuna-storage", server.url("optuna", "postgres"))
    first = run(tmp_path, *places, "--runner", "local", variables=LOGIN)
    assert first.code == 0, first.out + first.err
    assert states(server, "optuna", monkeypatch) == [TrialState.COMPLETE] * 3
    assert not (tmp_path / "mlruns").exists()
    assert len(list((tmp_path / "runs" / "mlflow-artifacts" / "small").rglob("weights.safetensors"))) == 3
    # The printed command works as it is printed, where the password is in the environment.
    printed = re.search(r"^make the report again +(\S.*)$", first.out, re.MULTILINE)
    assert printed is not None
    again = subprocess.run(printed[1], shell=True, cwd=tmp_path, env=environment(LOGIN), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr

    # The same study goes on, with the whole URLs in the environment, and on Ray, which pickles much.
    write_study(tmp_path, trials=4)
    login = f"study:{quote(PASSWORD, safe='')}@"
    variables = {
        "MLFLOW_TRACKING_URI": server.url("mlflow", "postgresql+psycopg2").replace("study@", login),
        "SELF_MODELING_OPTUNA_STORAGE": server.url("optuna", "postgresql+psycopg2").replace("study@", login),
    }
    second = run(tmp_path, variables=variables)
    assert second.code == 0, second.out + second.err
    assert "3 of 4 trials are finished, 1 to run" in second.out
    assert states(server, "optuna", monkeypatch) == [TrialState.COMPLETE] * 4
    shown = " ".join(second.out.split())
    assert 'optuna-dashboard "$SELF_MODELING_OPTUNA_STORAGE"' in shown
    assert 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI"' in shown
    assert "MLFLOW_TRACKING_URI is set: the MLflow record is at postgresql+psycopg2://study:***@127.0.0.1" in shown

    assert (tmp_path / "runs" / "ray" / "small").is_dir()
    assert files_with(PASSWORD, tmp_path) == []
    for text in (first.out, first.err, second.out, second.err, server.dump("mlflow"), server.dump("optuna")):
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text
    assert "small" in server.dump("mlflow"), "the dump has the study"


@pytest.mark.parametrize(
    ("url", "password", "message"),
    [
        ("study@127.0.0.1:{port}/postgres", "wrong-password", "password authentication failed.*PGPASSWORD"),
        ("study@127.0.0.1:{port}/postgres", None, "no password supplied.*PGPASSWORD"),
        ("study@127.0.0.1:{port}/nowhere", PASSWORD, 'database "nowhere" does not exist'),
        ("study@127.0.0.1:9/postgres", PASSWORD, "Connection refused"),
        ("study@no.such.host.invalid/postgres", PASSWORD, "could not translate host name"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_error_for_mlflow_and_for_optuna(
    server: PostgreSQL,
    tmp_path: Path,
    url: str,
    password: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    if password is not None:
        monkeypatch.setenv("PGPASSWORD", password)
    uri = "postgresql+psycopg2://" + url.format(port=server.port)
    with pytest.raises(StudyError, match=rf"MLflow record at .* cannot be used: .*{message}") as caught:
        RecordWriter(Stores.under(tmp_path, tracking_uri=uri), "any")
    with pytest.raises(StudyError, match=rf"Optuna storage .* cannot be opened: .*{message}") as caught_by_optuna:
        check_storage(uri)
    if password is not None:
        assert password not in str(caught.value) + str(caught_by_optuna.value)
    assert list(tmp_path.iterdir()) == []


def test_the_database_of_the_other_is_refused_and_two_schemas_of_one_are_not(
    server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    server.create("shared")
    for schema in ("for_mlflow", "for_optuna"):
        server.execute(f"create schema {schema}", "shared")
    mlflow_uri, optuna_url = (
        f"{server.url('shared')}?options=-csearch_path%3D{schema}" for schema in ("for_mlflow", "for_optuna")
    )
    stores = Stores.under(tmp_path, mlflow_uri, optuna_url)
    record = RecordWriter(stores, "any")
    with opened_storage(stores.optuna_url) as storage:
        optuna.create_study(storage=storage, study_name="any")
    check_storage(stores.optuna_url)
    assert record.finished() == {}
    assert RecordWriter(stores, "any").finished() == {}

    with pytest.raises(StudyError, match="this is MLflow's database"):
        check_storage(stores.tracking_uri)
    with pytest.raises(StudyError, match="this is Optuna's database"):
        RecordWriter(Stores.under(tmp_path, tracking_uri=optuna_url), "any")


def test_a_study_goes_on_while_its_databases_are_away_and_they_lack_nothing_in_the_end(
    server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.create("mlflow_dies", "optuna_dies")
    write_study(tmp_path, trials=6, epochs=30)
    places = ("--tracking-uri", server.url("mlflow_dies"), "--optuna-storage", server.url("optuna_dies"))
    words = command(*places, "--runner", "local")
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(LOGIN), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        out = ""
        for line in process.stdout:
            out += line
            if line.startswith("[2/6"):
                server.stop()
            if line.startswith("[4/6"):
                server.start()
                break
        rest, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert "error: " not in error
    assert (out + rest).count("is away:") == 1
    assert (out + rest).count("The MLflow record is back.") == 1
    assert states(server, "optuna_dies", monkeypatch).count(TrialState.COMPLETE) == 6
    again = run(tmp_path, *places, "--runner", "local", variables=LOGIN)
    assert "All 6 trials are finished already" in again.out
