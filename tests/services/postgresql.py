"""A real PostgreSQL server for tests, on loopback, with password authentication."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2

PASSWORD = "pg-Pass/word:4#real?"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class PostgreSQL:
    """A server whose user `study` has PASSWORD."""

    folder: Path
    port: int
    _process: "subprocess.Popen[bytes] | None" = None

    def url(self, database: str, scheme: str = "postgresql") -> str:
        """The URL of a database, without a password."""
        return f"{scheme}://study@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> "psycopg2.extensions.connection":
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="study", password=PASSWORD, dbname=database, connect_timeout=5
        )
        connection.autocommit = True
        return connection

    def execute(self, statement: str, database: str = "postgres") -> None:
        connection = self.connect(database)
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    def create(self, *databases: str) -> None:
        for name in databases:
            self.execute(f'create database "{name}"')

    def dump(self, database: str) -> str:
        """Everything in a database, as text."""
        return subprocess.run(
            [_program("pg_dump"), self.url(database)],
            env=os.environ | {"PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *_as_another_user(),
                _program("postgres"),
                *("-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.folder,
        )
        for _ in range(300):
            with suppress(psycopg2.OperationalError):
                self.connect().close()
                return
            time.sleep(0.1)
        raise AssertionError("PostgreSQL did not start")

    def stop(self) -> None:
        """End the server at once, and with it every connection."""
        if self._process is not None:
            subprocess.run(
                [*_as_another_user(), _program("pg_ctl"), "-D", str(self.folder / "data"), "stop", "-m", "immediate"],
                stdout=subprocess.DEVNULL,
                cwd=self.folder,
                check=True,
            )
            self._process.wait(timeout=60)
            self._process = None


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """A new server in a temporary folder, with a short path for its socket."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder = Path(name)
        password_file = folder / "password"
        password_file.write_text(PASSWORD)
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            owner = pwd.getpwnam("postgres")
            for path in (folder, password_file):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        subprocess.run(
            [
                *_as_another_user(),
                _program("initdb"),
                *("-D", str(folder / "data"), "-U", "study", "--auth=scram-sha-256", f"--pwfile={password_file}"),
                *("--no-sync", "-E", "UTF8"),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
            cwd=folder,
        )
        server = PostgreSQL(folder, free_port())
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _program(name: str) -> str:
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
    )
    assert found is not None, f"PostgreSQL's program {name} is not installed"
    return found


def _as_another_user() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
