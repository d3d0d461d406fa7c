"""Shared by all tests: real data, and small configurations that train in seconds."""

import os
import socket
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import DataError, TrialConfig, load_task
from trainables.tasks import TaskData
from trainables.tasks.cifar10 import SHA256 as CIFAR10_SHA256
from trainables.tasks.imdb import SHA256 as IMDB_SHA256
from trainables.tasks.mnist import SHA256 as MNIST_SHA256

# The networks here are small: a second thread would mostly wait, more so beside other processes.
torch.set_num_threads(1)

# Whole data sets, for tests that need the real content.
DATA = Path(os.environ.get("SELF_MODELING_DATA") or "data").resolve()
# The files of every task with files, in the folder of the data sets.
FILES = {
    "mnist": tuple(f"MNIST/raw/{name}" for name in MNIST_SHA256),
    "cifar10": tuple(f"cifar-10-batches-py/{name}" for name in CIFAR10_SHA256),
    "imdb": tuple(f"imdb/{split}.parquet" for split in IMDB_SHA256),
}
# Seconds to wait for a host's answer to a download; the system's own limit is minutes.
SECONDS_TO_ANSWER = 10.0
LEFT_OUT = "full data set missing: "


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for machines that have the data sets."""
    parser.addoption(
        "--require-data",
        action="store_true",
        help="let a test fail where its full data set is missing, instead of leaving it out",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how many tests were left out for each missing data set, and what to do about it."""
    # A skip is reported as (file, line, reason).
    skipped = [str(report.longrepr[2]) for report in terminalreporter.getreports("skipped")]
    counts = Counter(reason.partition(LEFT_OUT)[2] for reason in skipped if LEFT_OUT in reason)
    if not counts:
        return
    title = f"tests left out because full data sets are missing: {counts.total()}"
    terminalreporter.section(title, yellow=True, bold=True)
    for reason, tests in sorted(counts.items()):
        terminalreporter.line(f"{tests:3} of them: {reason}")


def load_full(name: str, root: Path, required: bool) -> TaskData:
    """The real data set from `root`, downloaded there if it is missing.

    Raises:
        pytest.skip.Exception: the data set is missing and cannot be downloaded.
        pytest.fail.Exception: the same, and the data is required.
        DataError: a file is damaged.
    """
    limit_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)
    try:
        return load_task(name, root)
    except DataError as error:
        if all((root / file).is_file() for file in FILES[name]):
            raise
        cause = (str(error.__cause__).splitlines() or [type(error.__cause__).__name__])[-1]
    finally:
        socket.setdefaulttimeout(limit_before)
    reason = (
        f"{LEFT_OUT}{name} is not in {root} and could not be downloaded ({cause}): set SELF_MODELING_DATA to a folder "
        "that has it, or run once with a network connection"
    )
    if required:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def digits() -> TaskData:
    return load_task("digits")


@pytest.fixture(scope="session")
def mnist(pytestconfig: pytest.Config) -> TaskData:
    """Real MNIST from SELF_MODELING_DATA, or downloaded to ./data."""
    return load_full("mnist", DATA, pytestconfig.getoption("--require-data"))


@pytest.fixture(scope="session")
def cifar10(pytestconfig: pytest.Config) -> TaskData:
    """Real CIFAR-10 from SELF_MODELING_DATA, or downloaded to ./data."""
    return load_full("cifar10", DATA, pytestconfig.getoption("--require-data"))


@pytest.fixture(scope="session")
def imdb(pytestconfig: pytest.Config) -> TaskData:
    """The real IMDB reviews from SELF_MODELING_DATA, or downloaded to ./data."""
    return load_full("imdb", DATA, pytestconfig.getoption("--require-data"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy address where nothing listens: no download can succeed, with or without a network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # urllib keeps the proxies of its first use, also for later tests in this process.
    monkeypatch.setattr(urllib.request, "_opener", None)


def small_trial(
    *,
    aux_weight: float = 0.0,
    seeds: tuple[int, ...] = (0, 1),
    hidden_layers: int = 1,
    width: int = 8,
    network: dict[str, Any] | None = None,
    self_model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    rlct: dict[str, Any] | None = None,
    observer: dict[str, Any] | None = None,
) -> TrialConfig:
    """A trial on digits that takes well under a second."""
    return TrialConfig.from_recipe(
        "digits",
        aux_weight=aux_weight,
        seeds=seeds,
        network={"hidden_layers": hidden_layers, "width": width} | (network or {}),
        self_model=self_model,
        training={"epochs": 2} | (training or {}),
        rlct={"draws": 8, "chains": 2, "batch_size": 32} | (rlct or {}),
        observer={"epochs": 1, "width": 8} | (observer or {}),
    )
