"""Where the stores of a study lie, and what is refused before anything is created."""

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from analysis.locations import sqlite_file, sqlite_url
from analysis.tracking import open_study
from study.commands.console import command_to_analyse, run_command, short_url, url_for_command
from study.commands.run import main
from study.errors import StudyError
from study.record.journal import begin_log, damage_of, end_log
from study.record.stores import Stores
from study.record.writer import RecordWriter
from study.search.store import opened_storage
from tests.study.synthetic import DIGEST, falling, sweep_spec, write_study, write_trials

SECRET = "hunter22"


@pytest.mark.parametrize("name", ["a?b%20c#d&e=f", "ä b:c@d"])
def test_a_store_of_any_name_lies_where_the_user_said(name: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    stores = Stores.under(work / name)
    spec = sweep_spec(weights=(0,), replicates=1)
    write_study(stores, spec, falling, tmp_path / "files")
    with opened_storage(stores.optuna_url):
        assert sqlite_file(stores.optuna_url) == work / name / "optuna.db"
    assert sorted(path.name for path in (work / name).iterdir()) == [
        "locks",
        "mlflow-artifacts",
        "mlflow.db",
        "optuna.db",
    ]
    assert [path.name for path in work.iterdir()] == [name]
    (history,) = (work / name / "mlflow-artifacts").rglob("history.parquet")
    # The record is found again, by the service and by the analysis, and so are its files.
    assert stores.may_have(spec.name)
    assert len(RecordWriter(stores, spec.name).finished()) == 1
    client, runs = open_study(stores.tracking_uri, spec.name)
    trial = next(run for run in runs if run.data.tags["level"] == "trial")
    assert Path(client.download_artifacts(trial.info.run_id, "history.parquet")).read_bytes() == history.read_bytes()


@pytest.mark.parametrize("path", ["/a/b.db", "/a?b/c%20d#e f/ü.db", "/%/x.db", "/a//?%3F.db"])
def test_a_sqlite_file_and_its_url_are_each_others(path: str) -> None:
    assert sqlite_file(sqlite_url(Path(path))) == Path(path)


def test_a_database_as_tracking_uri_has_its_files_under_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    stores = Stores.under(tmp_path / "store", tracking_uri="sqlite:///x.db")
    assert stores.is_empty
    write_study(stores, sweep_spec(weights=(0,), replicates=1), falling, tmp_path / "files")
    assert [path.name for path in Path.cwd().iterdir()] == ["x.db"]
    assert len(list((tmp_path / "store" / "mlflow-artifacts").rglob("history.parquet"))) == 1


def test_an_explicit_place_for_files_is_recorded_and_kept(tmp_path: Path) -> None:
    spec = sweep_spec(weights=(0,), replicates=1)
    stores = Stores.under(tmp_path / "store", artifacts_uri=str(tmp_path / "elsewhere"))
    write_study(stores, spec, falling, tmp_path / "files")
    experiment = MlflowClient(stores.tracking_uri).get_experiment_by_name(spec.name)
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "elsewhere" / spec.name).as_uri()
    assert len(list((tmp_path / "elsewhere").rglob("history.parquet"))) == 1
    # Without the option, the study goes on where its files are; they do not move.
    RecordWriter(Stores.under(tmp_path / "store"), spec.name).open_study(spec, DIGEST)
    moved = Stores.under(tmp_path / "store", artifacts_uri=str(tmp_path / "third"))
    with pytest.raises(StudyError, match=r"--artifacts: the files .* lie at .*elsewhere.* since it began"):
        RecordWriter(moved, spec.name).open_study(spec, DIGEST)


@pytest.mark.parametrize(
    ("tracking", "optuna"),
    [
        ("sqlite:///one.db", "sqlite:///./folder/../one.db"),
        ("postgresql://me@host/db", "postgres://you@host:5432/db"),
        ("postgresql+psycopg2://host/db", "postgresql://user:pw@host/db?connect_timeout=3"),
        ("mysql+pymysql://host/db", "mysql://host:3306/db"),
    ],
)
def test_one_database_for_mlflow_and_optuna_is_refused(tracking: str, optuna: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"MLflow and Optuna cannot share the database .* two databases") as caught:
        Stores.under(tmp_path, tracking, optuna)
    assert ":pw@" not in str(caught.value)


def test_two_databases_or_schemas_of_one_server_are_not_refused(tmp_path: Path) -> None:
    Stores.under(tmp_path, "postgresql://host/a", "postgresql://host/b")
    Stores.under(tmp_path, "postgresql://host/a", "postgresql://other/a")
    schema = "postgresql://host/a?options=-csearch_path%3D"
    assert Stores.under(tmp_path, f"{schema}a", f"{schema}b").tracking_uri.startswith("postgresql+psycopg2://host/a?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--store", "~nouser-of-that-name/x"], "--store: there is no home folder for '~nouser-of-that-name/x'"),
        (["--store", "a-file"], "a-file': cannot be created: .* is a file"),
        (["--store", "a-file/below"], "a-file is a file"),
        (["--tracking-uri", "localhost:5000"], "--tracking-uri localhost:5000: is no URI of a store"),
        (["--tracking-uri", "htp://host"], "--tracking-uri htp://host: is no URI"),
        (["--tracking-uri", "\x1f"], r"--tracking-uri \\x1f: is no URI"),
        (["--tracking-uri", "./mlruns"], "is no URI of a store.* a SQLite file is sqlite:///FILE"),
        (["--tracking-uri", "http://host:99999"], "--tracking-uri: not a URL, or its port is no number"),
        (["--tracking-uri", "http://127.0.0.1:9"], "cannot be used: the connection is refused.*Nothing was changed"),
        (["--tracking-uri", "postgresql://u@127.0.0.1:9/d"], "Connection refused.*Nothing was changed"),
        (["--optuna-storage", "http://host"], "--optuna-storage http://host: is no URI of a store"),
        (["--optuna-storage", "postgresql://u@127.0.0.1:9/d"], "Optuna storage .* cannot be opened: .*refused"),
        (["--optuna-storage", "postgresql://host:port/d"], "--optuna-storage: not a URL, or its port is no number"),
    ],
)
def test_a_store_that_cannot_be_is_one_clear_error_already_in_a_plan(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("in the way")
    assert main(["quickstart", "--plan", *options]) == 2
    printed = capfd.readouterr()
    error = printed.err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1

    assert re.search(message, error), error
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.parametrize(
    ("option", "url", "instead"),
    [
        ("--tracking-uri", "http://user:hunter22@host", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("--tracking-uri", "https://host/?token=hunter22", "MLFLOW_TRACKING_URI"),
        ("--tracking-uri", "postgresql://user:hunter22@host/db", "PGPASSWORD"),
        ("--optuna-storage", "postgresql://host/db?password=hunter22", "SELF_MODELING_OPTUNA_STORAGE"),
        ("--ray-storage", "s3://key:hunter22@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("--artifacts", "s3://key:hunter22@bucket/x", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_password_on_the_command_line_is_refused_with_the_variables_to_set(
    option: str, url: str, instead: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--plan", option, url]) == 2
    error = capfd.readouterr().err
    assert "a password on the command line can be read by every user" in error
    assert instead in error
    assert SECRET not in error
    if option == "--tracking-uri":
        from analysis.__main__ import main as analyse

        assert analyse(["quickstart", option, url]) == 2
        error = capfd.readouterr().err
        assert instead in error
        assert SECRET not in error


def test_the_environment_names_the_stores_unless_the_command_line_does_and_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///from-environment.db")
    monkeypatch.setenv("SELF_MODELING_OPTUNA_STORAGE", "sqlite:///optuna-from-environment.db")
    assert main(["quickstart", "--plan"]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert f"MLFLOW_TRACKING_URI is set: the MLflow record is at sqlite:///{tmp_path}/from-environment.db" in shown
    assert "SELF_MODELING_OPTUNA_STORAGE is set: the Optuna study is at sqlite:///" in shown
    assert main(["quickstart", "--plan", "--tracking-uri", "sqlite:///given.db"]) == 0
    assert "MLFLOW_TRACKING_URI" not in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_printed_commands_name_a_variable_instead_of_a_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"postgresql+psycopg2://user:{SECRET}@host/db"
    monkeypatch.setenv("SELF_MODELING_OPTUNA_STORAGE", url)
    assert url_for_command(url, "SELF_MODELING_OPTUNA_STORAGE") == '"$SELF_MODELING_OPTUNA_STORAGE"'
    monkeypatch.setenv("SELF_MODELING_OPTUNA_STORAGE", url.replace("+psycopg2", ""))
    assert url_for_command(url, "SELF_MODELING_OPTUNA_STORAGE") == "postgresql+psycopg2://host/db"
    assert url_for_command("sqlite:////a b/x.db", "X") == "'sqlite:////a b/x.db'"
    assert short_url(sqlite_url(tmp_path / "runs" / "x.db")) == "sqlite:///runs/x.db"
    stores = Stores.under(tmp_path / "runs", tracking_uri=f"http://user:{SECRET}@host")
    assert command_to_analyse(stores, "small").endswith("-m analysis small")


def test_an_error_and_a_failed_trials_reason_are_shown_and_kept_without_secrets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)

    def fail(console: object) -> int:
        raise StudyError(f"the server at http://user:other-pass@host said {SECRET}")

    assert run_command(["python"], [], fail) == 2
    assert capfd.readouterr().err == "error: the server at http://user:***@host said ***\n"

    spec = sweep_spec(weights=(0,))
    record = RecordWriter(Stores.under(tmp_path), spec.name)
    record.open_study(spec, DIGEST)
    config = next(spec.listed())
    record.start_trial("key", config)
    record.fail_trial("key", f"Traceback: connect('http://user:other-pass@host') with {SECRET}")
    (file,) = (tmp_path / "mlflow-artifacts").rglob("error.txt")
    assert file.read_text() == "Traceback: connect('http://user:***@host') with ***"


def test_a_reader_that_never_lets_go_does_not_stop_a_writer(tmp_path: Path) -> None:
    stores = Stores.under(tmp_path)
    spec = sweep_spec(weights=(0, 1), replicates=1)
    record = RecordWriter(stores, spec.name)
    record.begin()
    with record.held(), opened_storage(stores.optuna_url) as storage:
        readers = [sqlite3.connect(tmp_path / name) for name in ("mlflow.db", "optuna.db")]
        for reader, table in zip(readers, ("experiments", "studies"), strict=True):
            # A dashboard in the middle of a long answer.
            reader.execute("begin")
            reader.execute(f"select count(*) from {table}").fetchone()
        write_trials(record, spec, falling, tmp_path / "files")
        storage.create_new_study([], "written")
        assert readers[1].execute("select count(*) from studies").fetchone() == (0,)
        for reader in readers:
            reader.close()
    assert len(RecordWriter(stores, spec.name).finished()) == 2


def test_a_study_that_has_ended_leaves_single_files(tmp_path: Path) -> None:
    stores = Stores.under(tmp_path)
    record = RecordWriter(stores, "made-up")
    record.begin()
    with record.held(), opened_storage(stores.optuna_url):
        assert (tmp_path / "mlflow.db-wal").exists()
        assert (tmp_path / "optuna.db-wal").exists()
        write_trials(record, sweep_spec(weights=(0,), replicates=1), falling, tmp_path / "files")
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["mlflow.db", "optuna.db"]
    for name in ("mlflow.db", "optuna.db"):
        with sqlite3.connect(tmp_path / name) as database:
            assert database.execute("pragma journal_mode").fetchone() == ("delete",)


def test_a_log_is_no_error_where_the_file_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    file.write_text("no database, whatever its name says" * 100)
    begin_log(file)
    end_log(file)
    assert file.read_text().startswith("no database")


@pytest.mark.parametrize(
    ("package", "distribution", "option", "url"),
    [
        ("psycopg2", "psycopg2-binary", "--optuna-storage", "postgresql://host/db"),
        ("boto3", "boto3", "--artifacts", "s3://b/x"),
    ],
)
def test_a_missing_driver_is_an_error_with_the_command_that_installs_it(
    package: str, distribution: str, option: str, url: str, tmp_path: Path
) -> None:
    # Packages are found as ever but for this one, as in an environment without it.
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return None if name == {package!r} else super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Without\n"
        "from study.commands.run import main\n"
        f"sys.exit(main(['quickstart', '--plan', {option!r}, {url!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert f"the package {package} is missing. Install it: " in done.stderr
    assert f"pip install --python {sys.executable} {distribution}" in done.stderr


@pytest.mark.parametrize("merged", [True, False], ids=["half of the pages in the file", "all pages in the log"])
def test_a_database_that_is_cut_off_is_known_although_a_killed_writer_has_left_a_log_beside_it(
    merged: bool, tmp_path: Path
) -> None:
    file, left = tmp_path / "some.db", tmp_path / "left"
    left.mkdir()
    begin_log(file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table numbers (value text)")
        for part in range(2):
            with database:
                database.executemany(
                    "insert into numbers values (?)", [[f"{part} {i} {'-' * 200}"] for i in range(200)]
                )
            if merged and part == 0:
                database.execute("pragma wal_checkpoint(truncate)")
        # As the writer would leave them if it were killed now.
        for name in ("some.db", "some.db-wal"):
            shutil.copy(tmp_path / name, left)
    whole = (left / "some.db").read_bytes()
    log = (left / "some.db-wal").read_bytes()
    assert log
    verdicts = set()
    for size in range(len(whole), 100, -3000):
        (left / "some.db").write_bytes(whole[:size])
        (left / "some.db-wal").write_bytes(log)
        found = damage_of(left / "some.db")
        with closing(sqlite3.connect(left / "some.db")) as database:
            try:
                checked = database.execute("pragma quick_check").fetchone() == ("ok",)
            except sqlite3.DatabaseError:
                checked = False
        assert (found is None) == checked, (size, found)
        verdicts.add(checked)
    assert verdicts == ({True, False} if merged else {True})


def test_to_look_for_damage_leaves_the_locks_of_this_process_alone(tmp_path: Path) -> None:
    file = tmp_path / "some.db"
    begin_log(file)
    connect = f"import sqlite3; database = sqlite3.connect({str(file)!r})"
    write = f"{connect}; database.execute('insert into numbers values (1)'); database.commit(); database.close()"
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table numbers (value)")
        database.commit()
        assert damage_of(file) is None
        for count in (1, 2):
            # If it took itself for the last one to have the file open, it would delete the log that is read here.
            subprocess.run([sys.executable, "-c", write], check=True)
            assert database.execute("select count(*) from numbers").fetchone() == (count,)
        assert file.with_name("some.db-wal").exists()
