"""How the tests themselves behave if a full data set is missing or damaged."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FILES, load_full
from trainables import DataError, load_task

REPOSITORY = Path(__file__).parents[2]
# One test needs the full MNIST, two need the full CIFAR-10.
FULL_DATA_TESTS = [
    "tests/trainables/test_mnist.py",
    "tests/trainables/test_cifar10.py",
    "-k",
    "published_sizes or means",
]


@pytest.mark.parametrize("name", sorted(FILES))
def test_data_that_is_missing_and_out_of_reach_skips_with_reason_and_remedy(
    name: str, tmp_path: Path, no_network: None
) -> None:
    expected = rf"{name} is not in {tmp_path} and could not be downloaded \(.+\): set SELF_MODELING_DATA to a folder"
    with pytest.raises(pytest.skip.Exception, match=expected):
        load_full(name, tmp_path, required=False)
    with pytest.raises(pytest.fail.Exception, match=expected):
        load_full(name, tmp_path, required=True)


@pytest.mark.parametrize("name", sorted(FILES))
def test_data_that_is_there_is_loaded(name: str, small_files: Callable[[str], Path]) -> None:
    root = small_files(name)
    assert load_full(name, root, required=False).digest() == load_task(name, root).digest()


@pytest.mark.parametrize("name", sorted(FILES))
def test_damaged_data_is_an_error_and_no_skip(name: str, small_files: Callable[[str], Path], no_network: None) -> None:
    root = small_files(name)
    (root / FILES[name][0]).write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged or another data set's"):
        load_full(name, root, required=False)


def run_tests(data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of full image sets in a separate process, with the data sets in that folder."""
    environment = os.environ | {"SELF_MODELING_DATA": str(data), "PYTEST_ADDOPTS": ""}
    # Plugins of other packages take seconds to import, except the one that runs tests in several processes.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "pytest", *FULL_DATA_TESTS, *options, "-p", "xdist", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_a_run_without_data_passes_and_counts_the_tests_that_it_left_out(tmp_path: Path, no_network: None) -> None:
    run = run_tests(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tests left out because full data sets are missing: 3" in run.stdout
    assert f"1 of them: mnist is not in {tmp_path} and could not be downloaded" in run.stdout
    assert f"2 of them: cifar10 is not in {tmp_path} and could not be downloaded" in run.stdout


def test_a_run_that_requires_data_fails_where_it_is_missing(tmp_path: Path, no_network: None) -> None:
    run = run_tests(tmp_path, "--require-data")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "3 errors" in run.stdout
    assert f"mnist is not in {tmp_path} and could not be downloaded" in run.stdout
    assert f"cifar10 is not in {tmp_path} and could not be downloaded" in run.stdout
