"""The locations of a study's stores: one folder by default, separate URIs on a cluster."""

import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from analysis.locations import TRACKING_VARIABLE, sqlite_file, sqlite_url, with_driver
from analysis.servers import ServerError, bad_address, check_bucket, is_server
from study.errors import StudyError, without_secrets
from study.record.journal import damage_of
from study.shown import plain, shown

_DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mssql")


class StoreError(StudyError):
    """The tracking store cannot be reached or written; `why` is the reason alone."""

    def __init__(self, message: str, why: str):
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Stores:
    """Locations of the stores. Local ones lie under `root`: mlflow.db, mlflow-artifacts/, optuna.db, ray/, reports/."""

    root: Path
    tracking_uri: str
    optuna_url: str
    ray_uri: str
    artifacts_uri: str | None = None  # where the files of trials lie, if a place was given
    variables: frozenset[str] = frozenset()  # environment variables that chose a location

    @classmethod
    def under(
        cls,
        root: Path,
        tracking_uri: str | None = None,
        optuna_url: str | None = None,
        ray_uri: str | None = None,
        artifacts_uri: str | None = None,
        variables: frozenset[str] = frozenset(),
    ) -> "Stores":
        """All stores under one folder, except those given a separate URI.

        Raises:
            StudyError: a URI is none, or MLflow and Optuna would share a database.
        """
        try:
            root = root.expanduser().resolve()
        except RuntimeError as error:
            raise StudyError(f"--store {root}: there is no such user's folder. Name another folder.") from error
        stores = cls(
            root=root,
            tracking_uri=with_driver(_uri(tracking_uri, "--tracking-uri", ("http", "https", *_DATABASES)))
            if tracking_uri
            else sqlite_url(root / "mlflow.db"),
            optuna_url=with_driver(_uri(optuna_url, "--optuna-storage", _DATABASES))
            if optuna_url
            else sqlite_url(root / "optuna.db"),
            # Ray takes a URI or an absolute path.
            ray_uri=_uri_or_path(ray_uri, "--ray-storage") if ray_uri else str(root / "ray"),
            artifacts_uri=_as_uri(_uri_or_path(artifacts_uri, "--artifacts")) if artifacts_uri else None,
            variables=variables,
        )
        if _database(stores.tracking_uri) == _database(stores.optuna_url):
            raise StudyError(
                f"MLflow and Optuna cannot share the database {without_secrets(stores.optuna_url)}: both keep their "
                "version in one table of the same name. Give --tracking-uri and --optuna-storage two databases."
            )
        return stores

    def snapshots(self, study: str) -> str:
        """Path or URL of the snapshots of a study's running trials, which all workers reach."""
        return f"{self.ray_uri.rstrip('/')}/{study}/snapshots"

    @property
    def tracking_is_local(self) -> bool:
        return self.tracking_uri == sqlite_url(self.root / "mlflow.db")

    @property
    def optuna_is_local(self) -> bool:
        return self.optuna_url == sqlite_url(self.root / "optuna.db")

    @property
    def tracking_file(self) -> Path | None:
        """The record's SQLite file; None if it is a server or another database."""
        return sqlite_file(self.tracking_uri)

    @property
    def is_empty(self) -> bool:
        """Whether no study has been tracked here yet, as far as the files say."""
        return self.tracking_file is not None and not self.tracking_file.exists()

    def may_have(self, study: str) -> bool:
        """False if the record is a file and has no such study, found without MLflow, which is slow to import."""
        file = self.tracking_file
        if file is None:
            return True
        if not file.exists():
            return False
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
                found = database.execute("select 1 from experiments where name = ?", (study,)).fetchone()
        except sqlite3.Error:
            # MLflow will explain what is wrong with the database.
            return True
        return found is not None

    def described(self, variable: str) -> str:
        """The location that an environment variable has chosen, in words."""
        if variable == TRACKING_VARIABLE:
            return f"the MLflow record is at {without_secrets(self.tracking_uri)}"
        return f"the Optuna study is at {without_secrets(self.optuna_url)}"

    def artifact_location(self, study: str) -> str | None:
        """Where the files of a study's trials lie; None lets the MLflow server choose."""
        if self.artifacts_uri is not None:
            return f"{self.artifacts_uri.rstrip('/')}/{study}"
        return None if is_server(self.tracking_uri) else (self.root / "mlflow-artifacts" / study).as_uri()

    def report_folder(self, study: str) -> Path:
        return self.root / "reports" / study

    def outbox_folder(self, study: str) -> Path:
        """Where results wait that the tracking store could not take."""
        return self.root / "outbox" / study

    def log_file(self, study: str) -> Path:
        """The log of Ray's output on the driver."""
        return self.root / "ray" / study / "ray.log"

    def check_folder(self) -> None:
        """Check that the folder can be created and written to, without creating it.

        Raises:
            StudyError: it cannot.
        """
        where = f"--store {shown(str(self.root))}"
        try:
            existing = next(path for path in (self.root, *self.root.parents) if path.exists())
            if not existing.is_dir():
                raise StudyError(f"{where}: cannot be created: {existing} is a file. Name a folder.")
            writable = os.access(existing, os.W_OK | os.X_OK)
        except OSError as error:
            raise StudyError(f"{where}: {error.strerror}. Name another folder.") from error
        if not writable:
            raise StudyError(f"{where}: {existing} is not writable. Make it writable, or name another folder.")

    def check_record(self, study: str) -> None:
        """Check that a record in a file is whole, and that it is not gone while files of the study are still there.

        Raises:
            StudyError: it is damaged; or it is missing, empty, or without the study that these files belong to.
        """
        file = self.tracking_file
        if file is None:
            return
        restore = "Put back a copy of it from a backup, then run the same command again"
        if (damage := damage_of(file)) is not None:
            raise StudyError(f"the record {file} is damaged: {damage}. {restore}. Nothing was changed.")
        has_tables = file.exists() and file.stat().st_size > 0
        if not self.tracking_is_local or (has_tables and self.may_have(study)):
            return
        if (left := self._files_of(study)) is not None:
            state = "has no such study" if has_tables else "is missing or empty"
            raise StudyError(
                f"the record {file} {state}, but there are files of the study {study!r} in {left}: the record was lost "
                f"or exchanged. {restore}; or, if it is gone for good, move that folder away. Nothing was changed."
            )

    def _files_of(self, study: str) -> Path | None:
        """The first folder with files that only a study that was recorded leaves here."""
        folders = (self.root / "mlflow-artifacts" / study, self.report_folder(study))
        return next((folder for folder in folders if any(each.is_file() for each in folder.rglob("*"))), None)

    def check_buckets(self) -> None:
        """Check that the S3 buckets answer, if there are any.

        Raises:
            StudyError: one does not.
        """
        for option, uri in (("--artifacts", self.artifacts_uri), ("--ray-storage", self.ray_uri)):
            # The server of a URI with parameters is Ray's to find.
            if uri is None or not uri.startswith("s3://") or "?" in uri:
                continue
            try:
                check_bucket(uri)
            except ServerError as error:
                raise StudyError(f"{option} {without_secrets(uri)} cannot be used: {error}") from error

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            StudyError: the folder cannot be created or written to.
        """
        self.check_folder()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"--store {self.root}: cannot be created: {error.strerror}. Name another folder."
            ) from error


def _uri(uri: str, option: str, schemes: tuple[str, ...]) -> str:
    """A URI with one of the schemes and, if it is a server's, a host."""
    scheme, mark, _ = uri.partition("://")
    named = plain(without_secrets(uri))
    if not mark or scheme.partition("+")[0] not in schemes:
        raise StudyError(
            f"{option} {named}: is no URI of a store. Give one that begins with "
            f"{', '.join(f'{known}://' for known in schemes)}; a SQLite file is sqlite:///FILE."
        )
    wrong = None if scheme.startswith("sqlite") else bad_address(uri)
    # A database server may be reached through a socket, which has no host.
    if wrong is not None and (is_server(uri) or wrong != "it names no host"):
        raise StudyError(f"{option} {named}: {without_secrets(wrong)}. Write it as SCHEME://HOST:PORT/NAME.")
    return uri


def _uri_or_path(place: str, option: str) -> str:
    try:
        return place if "://" in place else str(Path(place).expanduser().resolve())
    except RuntimeError as error:
        raise StudyError(f"{option} {place}: there is no such user's folder. Name another one.") from error


def _as_uri(place: str) -> str:
    return place if "://" in place else Path(place).as_uri()


def _database(url: str) -> tuple[str, ...]:
    """What identifies a database: its file, or its server, name and schema."""
    file = sqlite_file(url)
    if file is not None:
        return ("file", str(file.resolve()))
    found = re.fullmatch(r"(\w+)(?:\+\w+)?://(?:.*@)?([^/@]*)/([^?]*)(?:\?(.*))?", url)
    if found is None:
        return ("url", url)
    kind, host, name, query = found.groups(default="")
    default_port = {"postgresql": ":5432", "mysql": ":3306"}.get(kind, "")
    parameters = sorted(part for part in unquote(query).split("&") if part.startswith(("options=", "host=", "port=")))
    return (kind, host.removesuffix(default_port), name, *parameters)
