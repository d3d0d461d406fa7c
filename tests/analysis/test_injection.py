"""A record with hostile names: pages, tables and pictures show them as text."""

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.calibration import Calibration
from analysis.calibration_report import write_calibration
from analysis.pages import save_csv
from analysis.record import StudyRecord
from analysis.report import write_report
from analysis.statistics import Concordance
from analysis.traces import draw_rlct_trace
from tests.analysis.in_memory import record_in_memory

# It would run as a script or a picture in a page, and cannot be set as mathematics.
HOSTILE = "</script><script>alert(1)</script>$\\frac{$<img src=x onerror=alert(2)>\"'{{ 7 * 7 }}"
# The same, for the small panels of a figure.
HOSTILE_LABEL = "<img src=x>$\\frac{$"


def hostile_record() -> StudyRecord:
    """A sweep whose name, question, labels, targets and protocol are HOSTILE."""

    def values(weight: float, number: int) -> dict[str, float]:
        noise = 0.001 * number
        return {
            "val_accuracy": 0.9 - weight / 100 + noise,
            "weight_std": 0.3 - weight / 100 + noise,
            "rlct": 30 - weight,
        }

    def with_targets(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(target=[HOSTILE if weight else "none" for weight in table["aux_weight"]])

    record = record_in_memory(values, weights=[0, 1, 2, 5, 10, 20])
    measures = [
        measure.model_copy(update={"label": HOSTILE, "meaning": HOSTILE}) for measure in record.description.measures
    ]
    return dataclasses.replace(
        record,
        study=HOSTILE,
        tags=dict.fromkeys(("question", "task", "platform", "validation_split", "version.x"), HOSTILE)
        | {"protocol": json.dumps({HOSTILE: HOSTILE})},
        trials=with_targets(record.trials),
        replicates=with_targets(record.replicates),
        rlct_settings={HOSTILE: HOSTILE},
        description=record.description.model_copy(update={"measures": tuple(measures)}),
    )


def assert_text_alone(page: Path) -> None:
    text = page.read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert not re.search(r"[^{]\b49\b.{0,9}</h1>", text)


def test_the_pages_of_a_report_run_nothing_of_the_record(tmp_path: Path) -> None:
    report = write_report(hostile_record(), tmp_path, command=f"python {HOSTILE}")
    assert_text_alone(report.page)
    assert_text_alone(tmp_path / "pareto.html")
    assert (tmp_path / "complexity.png").stat().st_size > 10_000


def test_the_page_of_a_calibration_runs_nothing_of_the_record(tmp_path: Path) -> None:
    verdicts = tuple(
        verdict.model_copy(update={"name": f"{HOSTILE_LABEL}{number}", "advice": HOSTILE})
        for number, verdict in enumerate(hostile_record().description.verdicts)
    )
    judged = {"nbeta": HOSTILE_LABEL, "trouble": HOSTILE_LABEL, "sound_share": 0.0, "change": 0.0, "stable": False}
    numbers = {"step_size": 1e-4, "localization": 100.0, "nbeta_value": 2.0, "draws": 8, "burn_in_fraction": 0.5}
    order = {"rlct": 3.0, "relative_se": 0.1, "tau": 1.0, "tau_low": 1.0, "tau_high": 1.0}
    settings = pd.DataFrame({"settings_key": "key"} | judged | numbers | order, index=[0])
    trace = pd.DataFrame(
        {"draw": range(8), "chain": 0, "replicate": 0, "loss": 1.0, "start_loss": 0.5, "kept": [False] * 4 + [True] * 4}
    )
    calibration = Calibration(
        study=HOSTILE,
        settings=settings,
        networks=pd.DataFrame({"trial_key": ["k"], "replicate": [0], "verdict": [HOSTILE_LABEL]}),
        verdicts=verdicts,
        reference="key",
        repeat=Concordance(1.0, 1.0, 1.0, 2),
        proposed=None,
        trial=HOSTILE,
        traces={"key": trace},
    )
    assert_text_alone(write_calibration(calibration, tmp_path, command=HOSTILE).page)
    draw_rlct_trace(trace, tmp_path / "trace.png", estimates=[1.0], errors=[0.1], verdicts=[HOSTILE_LABEL])
    assert (tmp_path / "trace.png").stat().st_size > 1000


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_a_table_is_a_formula(start: str, tmp_path: Path) -> None:
    formula = f"{start}HYPERLINK(1)"
    save_csv(pd.DataFrame({"name": [formula, "1×16"], formula: [1, 2]}), tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    expected = f"'{formula}".replace("\r", " ")
    assert table["name"].tolist() == [expected, "1×16"]
    assert table.columns.tolist() == ["name", expected]


def test_numbers_keep_their_signs_and_missing_values_stay_missing(tmp_path: Path) -> None:
    table = pd.DataFrame({"number": [-1.5, 2.0], "text": ["-1e-3", "+2"], "either": [None, -3], "flag": [True, False]})
    save_csv(table, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == table.to_csv(index=False)
