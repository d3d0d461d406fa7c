"""Servers that hold a record: ask one whether it answers, say in plain words what is wrong, wait a bounded time.

MLflow's own client tries an unreachable server for five and a half minutes, without a word.
"""

import errno
import logging
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from socket import gaierror
from urllib.parse import urlsplit

from analysis.drivers import missing_driver, missing_package
from analysis.secrets import without_secrets

# Seconds that a server has to answer at the start: for one step of the exchange, and in all.
SECONDS_TO_ANSWER, MOST_SECONDS = 6, 9
# At the start one question is asked once.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS_TO_ANSWER)}
# Later a server may be restarted: tries after 0, 4, 8, 16 and 32 s, a minute if it refuses connections. The user's own
# settings of MLflow count more.
_PATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "PGCONNECT_TIMEOUT": "10",
}
# While trials run, results can wait on the disk: tries after 0 and 4 s.
_BRIEF = _PATIENT | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
# What this module has set so far.
_chosen: dict[str, str] = {}
_WEB_PAGE = re.compile(r"not in a valid JSON format|Response body: '\s*<", re.IGNORECASE)
logger = logging.getLogger("study.servers")


class ServerError(RuntimeError):
    """A server cannot be used; the message says what is wrong and what to do."""


def is_server(tracking_uri: str) -> bool:
    """Whether a tracking URI is that of an MLflow server."""
    return tracking_uri.startswith(("http://", "https://"))


def bad_address(uri: str) -> str | None:
    """What is wrong with the form of a server's address; None if nothing is."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        return str(error)
    if not parts.hostname:
        return "it names no host"
    return "port 0 cannot be reached" if port == 0 else None


def check_server(tracking_uri: str) -> None:
    """Ask an MLflow server for one experiment, once and with short time-outs.

    Raises:
        ServerError: it does not answer, refuses, or is something else.
    """
    from mlflow.tracking import MlflowClient

    def ask() -> None:
        with _environment(_IMPATIENT):
            MlflowClient(tracking_uri).search_experiments(max_results=1)

    _within_time(ask)


def check_database(url: str) -> list[str]:
    """Connect to a database, once and with short time-outs, and return the names of its tables.

    Raises:
        ServerError: there is no connection, or no driver.
    """
    import sqlalchemy

    tables: list[str] = []

    def ask() -> None:
        arguments = {"connect_timeout": SECONDS_TO_ANSWER} if url.startswith("postgresql") else {}
        engine = sqlalchemy.create_engine(url, connect_args=arguments, poolclass=sqlalchemy.pool.NullPool)
        tables.extend(sqlalchemy.inspect(engine).get_table_names())

    _within_time(ask)
    return tables


def check_bucket(uri: str) -> None:
    """Ask an S3 server for the bucket of a URI, once and with short time-outs.

    Raises:
        ServerError: the server does not answer, has no such bucket, or refuses.
    """
    missing = missing_driver(uri)
    if missing is not None:
        raise ServerError(missing)

    def ask() -> None:
        import boto3
        from botocore.config import Config

        limits = Config(connect_timeout=SECONDS_TO_ANSWER, read_timeout=SECONDS_TO_ANSWER, retries={"max_attempts": 0})
        client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"), config=limits)
        client.head_bucket(Bucket=urlsplit(uri).netloc)

    _within_time(ask)


def is_of_a_store(error: Exception) -> bool:
    """Whether an error comes from a store or the way to it, not from this project's code."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | ImportError) or package in {"mlflow", "sqlalchemy", "boto3", "botocore"}


def wait_a_bounded_time() -> None:
    """Let MLflow's client and PostgreSQL's try again for a minute or so, not longer, and say so in the log."""
    _choose(_PATIENT)
    retries = logging.getLogger("urllib3.connectionpool")
    if not any(isinstance(handler, _Retries) for handler in retries.handlers):
        retries.addHandler(_Retries())


def wait_briefly() -> None:
    """Try again for some seconds only: the caller can go on without the server."""
    _choose(_BRIEF)


def wait_no_longer() -> None:
    """After a server was given up, try each further request once."""
    _choose(_IMPATIENT)


def _choose(settings: Mapping[str, str]) -> None:
    """Set variables of MLflow's and PostgreSQL's clients, except those that the user has set."""
    for name, value in settings.items():
        if os.environ.get(name) == _chosen.get(name):
            os.environ[name] = _chosen[name] = value


def reason(error: BaseException) -> str:
    """What is wrong with a server or database, and what to do, in one or two sentences without secrets."""
    causes = list(_causes(error))
    said = " ".join(without_secrets(str(error)).split()).rstrip(".")
    for cause in causes:
        for kind, explanation in _EXPLANATIONS.items():
            if isinstance(cause, kind):
                return explanation(cause)
        if getattr(cause, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return "there is no route to that host. Check the address and the network."
    if _WEB_PAGE.search(said) and "error code 5" not in said and "error code 401" not in said:
        return "a web page answers there, not an MLflow server. Check the address, its port and its path."
    for cause in causes:
        status = getattr(cause, "get_http_status_code", None)
        explanation_of_status = _STATUSES.get(status()) if status is not None else None
        if explanation_of_status is not None:
            return explanation_of_status(said)
    if "HeadBucket" in said:
        return (
            f"{said}. Check the bucket's name, the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and its region."
        )
    too_many = re.search(r"too many (5\d\d) error responses", said)
    if too_many:
        return f"it answers with error {too_many[1]}. Look into its own log."
    for cause in causes:
        # A database's driver says it best, on its first lines.
        driver = getattr(cause, "orig", None)
        if driver is not None:
            return _of_driver(without_secrets(str(driver)))
    return (without_secrets(str(error)).splitlines() or [type(error).__name__])[0].rstrip(".") + "."


def _within_time(ask: Callable[[], None]) -> None:
    """Call a function that asks a server; ServerError if it fails or takes too long (looking up a name may)."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(MOST_SECONDS)
    if thread.is_alive():
        raise ServerError(f"no answer within {MOST_SECONDS} s. Check the address, the network and that it runs.")
    if failures:
        raise ServerError(reason(failures[0])) from failures[0]


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it was raised from."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


def _no_driver(error: BaseException) -> str:
    return missing_package(getattr(error, "name", None) or str(error))


def _of_driver(text: str) -> str:
    first = " ".join(text.split())
    if "no password supplied" in text or "password authentication failed" in text:
        return f"{first}. Give the password in PGPASSWORD or ~/.pgpass."
    return f"{first}."


def _refused(login: str) -> str:
    if os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return f"it does not accept the {login} in the environment. Check MLFLOW_TRACKING_USERNAME and its password."
    return "it asks for a login. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."


_EXPLANATIONS: dict[type[BaseException], Callable[[BaseException], str]] = {
    ModuleNotFoundError: _no_driver,
    gaierror: lambda error: "there is no host of that name. Check the address and the network.",
    ConnectionRefusedError: lambda error: (
        "the connection is refused: nothing listens there. Check the port, and that it runs."
    ),
    ssl.SSLError: lambda error: (
        f"TLS fails ({getattr(error, 'reason', None) or error}). Check http or https, and "
        "its certificate (MLFLOW_TRACKING_SERVER_CERT_PATH names another authority's)."
    ),
    TimeoutError: lambda error: "no answer within the time. Check the address, the network and that it runs.",
}
_STATUSES: dict[int, Callable[[str], str]] = {
    HTTPStatus.UNAUTHORIZED: lambda said: _refused("user and password"),
    HTTPStatus.FORBIDDEN: lambda said: f"it forbids this ({said}). Check the user's permissions.",
    HTTPStatus.NOT_FOUND: lambda said: "something answers there that is no MLflow server. Check the address and path.",
}


class _Retries(logging.Handler):
    """Says that a server does not answer and is tried again."""

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Retrying") and isinstance(record.args, tuple) and len(record.args) > 1:
            cause = record.args[1]
            why = reason(cause) if isinstance(cause, BaseException) else ""
            logger.warning("The server does not answer, trying again: %s", why or "it failed.")
