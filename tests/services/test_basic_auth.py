"""A study recorded by an MLflow server that asks for a login."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.services.mlflow_server import running_mlflow
from tests.services.studies import files_with, run, write_study

pytestmark = pytest.mark.services
PASSWORD = "server-Pass/word:4"


class Server(NamedTuple):
    """A server and the folder of its files."""

    uri: str
    folder: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    settings = tmp_path_factory.mktemp("settings") / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    options = ("--app-name", "basic-auth", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db")
    artifacts = ("--artifacts-destination", str(folder / "artifacts"))
    variables = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "key-of-forms"}
    with running_mlflow(*options, *artifacts, environment=variables) as uri:
        yield Server(uri, folder)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "it asks for a login. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (
            {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "wrong-password"},
            "it does not accept the user and password in the environment",
        ),
    ],
)
def test_a_login_that_is_missing_or_wrong_is_one_clear_error_and_leaves_nothing(
    server: Server, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    write_study(tmp_path, trials=2)
    for module, words in ((None, ()), ("analysis", ("small",))):
        refused = run(tmp_path, *words, "--tracking-uri", server.uri, variables=variables, module=module)
        assert refused.code == 2
        assert message in refused.err
        assert len(refused.err.splitlines()) == 1
        assert "wrong-password" not in refused.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("in_the_url", [False, True])
def test_a_study_is_recorded_with_the_login_of_the_environment_which_is_nowhere_else(
    server: Server, tmp_path: Path, in_the_url: bool
) -> None:
    write_study(tmp_path, trials=2)
    if in_the_url:
        variables = {"MLFLOW_TRACKING_URI": server.uri.replace("://", f"://admin:{PASSWORD.replace('/', '%2F')}@")}
        place: tuple[str, ...] = ()
    else:
        variables = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        place = ("--tracking-uri", server.uri)
    name = f"small-{in_the_url}"
    ran = run(tmp_path, *place, "--name", name, "--runner", "local", variables=variables)
    assert ran.code == 0, ran.out + ran.err
    assert f"open {server.uri} in a browser" in ran.out
    assert len(list(server.folder.rglob("weights.safetensors"))) >= 2
    analysed = run(tmp_path, name, *place, variables=variables, module="analysis")
    assert analysed.code == 0, analysed.err
    assert files_with(PASSWORD, tmp_path) == []
    assert files_with(PASSWORD, server.folder) == []
    for text in (ran.out, ran.err, analysed.out, analysed.err):
        assert PASSWORD not in text
        assert PASSWORD.replace("/", "%2F") not in text
