"""Packages that only some stores need, and the commands that install them."""

import sys
from importlib.util import find_spec
from pathlib import Path

# The distribution that has a package; this project's extras `postgresql` and `s3` name them.
_DISTRIBUTIONS = {"psycopg2": "psycopg2-binary", "boto3": "boto3", "botocore": "boto3"}


def missing_driver(url: str) -> str | None:
    """What is missing to use a database or a bucket, and how to install it; None if nothing is."""
    package = {"postgresql+psycopg2": "psycopg2", "s3": "boto3"}.get(url.partition("://")[0])
    return missing_package(package) if package and find_spec(package) is None else None


def missing_package(name: str) -> str:
    """That a package is missing, and the command that installs it."""
    package = name.partition(".")[0]
    distribution = _DISTRIBUTIONS.get(package)
    install = f" Install it: {_install(distribution)}" if distribution else ""
    return f"the package {package} is missing.{install}"


def _install(distribution: str) -> str:
    python = Path(sys.executable)
    here = Path.cwd()
    uv, python = (
        path.relative_to(here) if path.is_relative_to(here) else path for path in (python.with_name("uv"), python)
    )
    return f"{uv} pip install --python {python} {distribution}"
