"""Servers that do not answer, refuse, or are something else: one clear sentence, at once."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import analysis.servers
from analysis.servers import ServerError, bad_address, check_server


@pytest.fixture
def web_server() -> Iterator[ThreadingHTTPServer]:
    """A web server that answers every request as its `answer` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = self.server.answer  # type: ignore[attr-defined]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b"<html>Welcome</html>", "a web page answers there, not an MLflow server"),
        (404, b"<html>Not here</html>", "a web page answers there, not an MLflow server"),
        (404, b"nothing", "no MLflow server. Check the address and path"),
        (401, b"<html>Who are you?</html>", "asks for a login. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSW"),
        (403, b"not you", "it forbids this"),
        (500, b"", "it answers with error 500"),
        (503, b"", "it answers with error 503"),
    ],
)
def test_a_server_that_is_none_or_refuses_is_named_as_what_it_is(
    web_server: ThreadingHTTPServer, status: int, body: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    web_server.answer = (status, body)  # type: ignore[attr-defined]
    with pytest.raises(ServerError, match=message):
        check_server(f"http://127.0.0.1:{web_server.server_port}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://user:hunter22@127.0.0.1:9", "the connection is refused: nothing listens there"),
        ("http://user:hunter22@no.such.host.invalid", "there is no host of that name"),
    ],
)
def test_a_server_that_is_not_there_is_an_error_without_the_password(uri: str, message: str) -> None:
    with pytest.raises(ServerError, match=message) as caught:
        check_server(uri)
    assert "hunter22" not in str(caught.value)


def test_http_for_https_is_named(web_server: ThreadingHTTPServer) -> None:
    with pytest.raises(ServerError, match=r"TLS fails .*Check http or https"):
        check_server(f"https://127.0.0.1:{web_server.server_port}")


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert analysis.servers.MOST_SECONDS < 15
    monkeypatch.setattr(analysis.servers, "MOST_SECONDS", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ServerError, match=r"no answer within 0\.5 s"),
    ):
        check_server(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_waiting_is_bounded_and_the_settings_of_the_user_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in analysis.servers._PATIENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(analysis.servers, "_chosen", {})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    from mlflow import environment_variables as mlflow_settings

    def seen_by_mlflow() -> tuple[int, int]:
        return (
            mlflow_settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(),  # type: ignore[no-untyped-call]
            mlflow_settings.MLFLOW_HTTP_REQUEST_TIMEOUT.get(),  # type: ignore[no-untyped-call]
        )

    analysis.servers.wait_a_bounded_time()
    assert seen_by_mlflow() == (5, 77)
    analysis.servers.wait_no_longer()
    assert seen_by_mlflow() == (0, 77)
    # Another study of the same process.
    analysis.servers.wait_a_bounded_time()
    assert seen_by_mlflow() == (5, 77)


@pytest.mark.parametrize(
    ("uri", "wrong"),
    [
        ("http://host:5000/path", None),
        ("http://[::1]:5000", None),
        ("http://host:99999", "out of range"),
        ("http://host:port", "port"),
        ("http://", "names no host"),
        ("http://[::1", "IPv6"),
        ("http://host:0", "port 0"),
    ],
)
def test_the_form_of_an_address_is_checked(uri: str, wrong: str | None) -> None:
    found = bad_address(uri)
    assert (found is None) if wrong is None else (wrong in str(found))
