"""Quick commands import nothing slow."""

import subprocess
import sys

import pytest

SLOW = ("mlflow", "pandas", "numpy", "scipy", "matplotlib", "optuna", "plotly", "lmfit", "jinja2")


def imported(code: str) -> set[str]:
    """The packages of SLOW that a fresh interpreter has loaded after the code."""
    report = f"import sys; print('loaded', *({{name.split('.')[0] for name in sys.modules}} & set({SLOW!r})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import analysis",
        "from analysis import AnalysisError",
        "from analysis.layout import Tag",
        "from analysis.description import undescribed; undescribed()",
        "from analysis.freshness import report_is_current",
        "from analysis.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_layout_description_and_help_import_nothing_slow(code: str) -> None:
    assert imported(code) == set()


def test_a_record_is_read_without_what_only_reports_need() -> None:
    assert imported("from analysis import read_record").isdisjoint(
        {"matplotlib", "optuna", "plotly", "lmfit", "jinja2"}
    )


def test_a_trace_is_drawn_without_what_only_studies_need() -> None:
    loaded = imported("from analysis.traces import draw_rlct_trace")
    assert loaded.isdisjoint({"mlflow", "optuna", "plotly", "lmfit", "scipy", "jinja2"})


def test_every_public_name_of_the_package_is_there() -> None:
    import analysis

    assert all(getattr(analysis, name) is not None for name in analysis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        analysis.nothing  # noqa: B018
