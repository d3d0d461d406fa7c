"""URLs of databases: SQLite files of any name, and PostgreSQL with the driver that this project installs."""

import re
from pathlib import Path
from urllib.parse import unquote

# The variables that name the tracking store, for MLflow's own programs too, and Optuna's database.
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
OPTUNA_VARIABLE = "SELF_MODELING_OPTUNA_STORAGE"
# The folder that has them otherwise.
STORE_VARIABLE = "SELF_MODELING_STORE"
_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///([^?]+)")
_POSTGRESQL = re.compile(r"^(?:postgres|postgresql)(?=://)")


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite file, for SQLAlchemy, MLflow and Optuna."""
    path = str(file).replace("%", "%25").replace("?", "%3F")
    # Without a driver's name, MLflow would make the folders of the path as it is written here.
    return f"sqlite:///{path}" if path == str(file) else f"sqlite+pysqlite:///{path}"


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL; None for another database, and for one in memory."""
    found = _SQLITE.fullmatch(url.partition("?")[0])
    return None if found is None or found[1] == ":memory:" else Path(unquote(found[1]))


def with_driver(url: str) -> str:
    """A database URL with a driver where SQLAlchemy would take one that is not installed.

    `postgresql://` and `postgres://` become `postgresql+psycopg2://`, a relative path of SQLite an absolute one.
    """
    file = sqlite_file(url)
    if file is not None and not file.is_absolute():
        _, mark, query = url.partition("?")
        return sqlite_url(file.resolve()) + mark + query
    return _POSTGRESQL.sub("postgresql+psycopg2", url)
