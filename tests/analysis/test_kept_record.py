"""A record of an earlier version gives the same numbers as the analysis of that version."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import AnalysisError, StudyRecord, read_record, write_report
from analysis.__main__ import main
from analysis.layout import NO_ESTIMATE
from tests.kept import CONTROLS, REESTIMATED, SEARCH, KeptRecord, unpack_kept_record

# The standard error over chains then had the name of that over replicates.
RENAMED = {"rlct_se": "rlct_chain_se"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptRecord:
    return unpack_kept_record(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module", params=[SEARCH, CONTROLS])
def record(request: pytest.FixtureRequest, kept: KeptRecord) -> StudyRecord:
    return read_record(kept.tracking_uri, request.param)


def as_written(table: pd.DataFrame, file: Path, rows: list[str]) -> pd.DataFrame:
    """A table written to CSV and read again, sorted by some columns."""
    table.to_csv(file, index=False)
    read = pd.read_csv(file, keep_default_na=False, na_values=[""])
    return read.sort_values(rows, ignore_index=True)


@pytest.mark.parametrize(("name", "rows"), [("replicates", ["trial_key", "replicate"]), ("trials", ["trial_key"])])
def test_the_tables_have_the_same_rows_columns_and_numbers(
    kept: KeptRecord, record: StudyRecord, name: str, rows: list[str], tmp_path: Path
) -> None:
    former = kept.table(record.study, name).rename(columns=RENAMED if name == "replicates" else {})
    now = as_written(getattr(record, name), tmp_path / "table.csv", rows)
    assert set(now.columns) == set(former.columns)
    pd.testing.assert_frame_equal(
        now[list(former.columns)], former.sort_values(rows, ignore_index=True), check_exact=False, rtol=1e-12
    )


def test_trials_are_in_the_same_order(kept: KeptRecord, record: StudyRecord) -> None:
    assert record.trials["trial_key"].tolist() == kept.table(record.study, "trials")["trial_key"].tolist()


def test_every_comparison_with_a_baseline_is_there_with_its_numbers(
    kept: KeptRecord, record: StudyRecord, tmp_path: Path
) -> None:
    rows = ["trial", "aux_weight", "measure"]
    former = kept.table(record.study, "comparisons").sort_values(rows, ignore_index=True)
    now = as_written(write_report(record, tmp_path, "command").comparisons, tmp_path / "table.csv", rows)
    # All measures are now compared; then only some were.
    assert set(former["measure"]) < set(now["measure"])
    common = now.merge(former[rows], on=rows)
    pd.testing.assert_frame_equal(common[list(former.columns)], former, check_exact=False, rtol=1e-9, atol=1e-12)


def test_every_fitted_power_law_is_there_with_its_numbers(kept: KeptRecord, tmp_path: Path) -> None:
    record = read_record(kept.tracking_uri, CONTROLS)
    former = kept.table(CONTROLS, "fits")
    write_report(record, tmp_path, "command")
    now = pd.read_csv(tmp_path / "fits.csv").query("family == 'shifted power law'")
    assert former["measure"].tolist() == ["weight_std", "rlct"]
    for fit in former.to_dict("records"):
        of_measure = now[(now["sweep"] == fit["sweep"]) & (now["measure"] == fit["measure"])]
        for parameter in of_measure.to_dict("records"):
            name = parameter["parameter"]
            assert parameter["value"] == pytest.approx(fit[name])
            assert parameter["se"] == pytest.approx(fit[f"{name}_se"], nan_ok=True)
            assert parameter["at_bound"] == np.isnan(fit[f"{name}_se"])
            assert parameter["points"] == fit["weights"]
            assert parameter["reduced_chi_square"] == pytest.approx(fit["reduced_chi_square"])
            assert parameter["aicc_gain"] == pytest.approx(fit["aicc_gain"])
        assert of_measure["parameter"].tolist() == ["y0", "w0", "alpha"]


def test_too_few_weights_have_no_fits_as_before(kept: KeptRecord, tmp_path: Path) -> None:
    write_report(read_record(kept.tracking_uri, SEARCH), tmp_path, "command")
    assert pd.read_csv(tmp_path / "fits.csv").empty


def test_estimates_made_again_take_the_place_of_the_trials_own(kept: KeptRecord) -> None:
    first, again = (read_record(kept.tracking_uri, CONTROLS, key) for key in (None, REESTIMATED))
    estimated = again.replicates["rlct_verdict"] != NO_ESTIMATE
    assert estimated.sum() == again.replicates["rlct"].notna().sum() > 0
    assert not np.isclose(again.replicates["rlct"], first.replicates["rlct"]).any()
    assert (again.replicates.loc[estimated, "rlct_chain_se"] > 0).all()
    assert (again.rlct_settings["draws"], first.rlct_settings["draws"]) == ("100", "60")
    replaced = ["rlct", "rlct_chain_se", "rlct_verdict"]
    pd.testing.assert_frame_equal(again.replicates.drop(columns=replaced), first.replicates.drop(columns=replaced))


def test_the_command_analyses_the_study_with_them_beside_its_own_report(kept: KeptRecord) -> None:
    assert main([CONTROLS, "--store", str(kept.folder), "--rlct", REESTIMATED]) == 0
    folder = kept.folder / "reports" / CONTROLS
    assert "draws 100" in (folder / f"rlct-{REESTIMATED}" / "report.html").read_text()
    assert not (folder / "report.html").exists()


def test_settings_without_estimates_are_an_error_that_lists_the_settings_with_estimates(kept: KeptRecord) -> None:
    with pytest.raises(
        AnalysisError, match=rf"settings 'nothing'; there are:\n  {REESTIMATED}: .*draws 100, .*step_size"
    ):
        read_record(kept.tracking_uri, CONTROLS, "nothing")
    with pytest.raises(AnalysisError, match="none was estimated again"):
        read_record(kept.tracking_uri, SEARCH, REESTIMATED)
