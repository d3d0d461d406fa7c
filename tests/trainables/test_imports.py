"""Checking a study and stating its cost is quick: it imports nothing that takes seconds."""

import subprocess
import sys

import pytest

import trainables
from trainables import networks

SLOW = ("torch", "torchvision", "datasets", "sklearn", "scipy", "devinterp", "arviz_stats", "pandas")
CHECKS = {
    "the package": "import trainables",
    "configuration": "from trainables.config import NetworkConfig, RlctConfig, SelfModelConfig, TrainingConfig",
    "targets": "from trainables.targets import has_target, in_words, target_depths",
    "tasks": "from trainables.tasks import TASKS, NO_TOKEN, Split, Splits, TaskData, get_task, load_task",
    "layers": """
from trainables.networks import ARCHITECTURES, Head, architectures_for, layers_of
from trainables.tasks import get_task
layers_of(get_task('cifar10').recipe.network, get_task('cifar10').shape.inputs)
""",
    "auxiliary tasks": "from trainables.auxiliary import AUXILIARY_TASKS, OPTIONS, AuxiliaryTask, get_auxiliary_task",
    "measures": "from trainables.measures import MEASURES, Measure, end_measures, epoch_measures",
    "outcomes": "from trainables.outcomes import STATUSES, VERDICTS, worst_status, worst_verdict",
    "a trial's key": """
from trainables.trial import TrialConfig
TrialConfig.from_recipe('digits', aux_weight=1.0).key('')
""",
    "costs": """
from trainables.cost import WORK_PER_SECOND, seconds_per_work, work, work_of_timing
from trainables.tasks import TASKS
from trainables.trial import TrialConfig
for task in TASKS.values():
    trial = TrialConfig.from_recipe(task.name, aux_weight=1.0)
    assert work(trial, task.shape) > work_of_timing(trial, task.shape) > 0
""",
}
# The traceback of this error names the module with the forbidden import.
GUARD = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name in {SLOW}:
            raise AssertionError(f"{{name}} is imported")

sys.meta_path.insert(0, Guard())
"""


@pytest.mark.parametrize("code", CHECKS.values(), ids=CHECKS)
def test_what_checks_a_study_and_states_its_cost_imports_nothing_slow(code: str) -> None:
    finished = subprocess.run([sys.executable, "-c", GUARD + code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("package", [trainables, networks], ids=lambda package: package.__name__)
def test_every_public_name_is_there_and_so_are_those_that_are_imported_on_first_use(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="'no_such_name'"):
        package.no_such_name  # type: ignore[attr-defined]  # noqa: B018
