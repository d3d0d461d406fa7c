"""Nothing that is read from a store is unpickled: a pickle can run any code of whoever wrote it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.studies import environment, run, write_study

pytestmark = pytest.mark.services
# A study goes on, is analysed, and its checkpoints are read, where every way to unpickle raises.
READ = """
import pickle
from analysis.__main__ import main as analyse
from study.commands.main import main as command
from study.commands.run import main
import study.engine.worker, study.record.writer, study.search.search, analysis.report, analysis.table

def refuse(*arguments, **options):
    raise AssertionError("a pickle was read")

class Unpickler(pickle._Unpickler):
    __init__ = refuse

pickle.load = pickle.loads = refuse
pickle.Unpickler = pickle._Unpickler = Unpickler
assert main(["small.yaml", "--runner", "local", "--trials", "3"]) == 0
assert analyse(["small"]) == 0
assert command(["rlct", "estimate", "small", "--runner", "local", "--draws", "9"]) == 0
"""


def test_a_study_is_continued_analysed_and_estimated_without_reading_a_pickle(tmp_path: Path) -> None:
    write_study(tmp_path, trials=2)
    first = run(tmp_path, "--runner", "local")
    assert first.code == 0, first.err
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=tmp_path, env=environment({}), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 3 trials are finished, 1 to run" in done.stdout


def test_pickles_of_an_earlier_run_in_rays_folder_are_not_read(tmp_path: Path) -> None:
    write_study(tmp_path, trials=1)
    first = run(tmp_path)
    assert first.code == 0, first.err
    # Whoever can write there, replaces what Ray has pickled by code.
    pickles = list((tmp_path / "runs" / "ray").rglob("*.pkl"))
    assert pickles
    for file in pickles:
        file.write_bytes(b"cos\nmkdir\n(Vrun-by-a-pickle\ntR.")
    second = run(tmp_path, "--trials", "2")
    assert second.code == 0, second.err
    assert not list(tmp_path.rglob("run-by-a-pickle"))
