"""Records that describe themselves, with names made up by a test."""

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from analysis.description import Description, Measure, undescribed
from analysis.layout import Artifact
from study.record.stores import Stores
from tests.study.synthetic import runs_of


def description_with(*measures: Measure) -> Description:
    """The description of a usual record, with these measures added at the end."""
    usual = undescribed()
    return Description(
        measures=(*usual.measures, *measures),
        dimensions=usual.dimensions,
        statuses=usual.statuses,
        verdicts=usual.verdicts,
    )


def describe(stores: Stores, study: str, description: Description) -> None:
    """Put a description on the run of a study."""
    (run,) = runs_of(stores, study, "tags.level = 'study'")
    client = MlflowClient(stores.tracking_uri)
    client.log_text(run.info.run_id, description.model_dump_json(), Artifact.DESCRIPTION)


def add_metric(stores: Stores, study: str, name: str, per_weight: float, offset: float = 1.0) -> None:
    """Give every replicate a metric: offset + per_weight · aux_weight + 0.01 · its number."""
    client = MlflowClient(stores.tracking_uri)
    for run in runs_of(stores, study, "tags.level = 'replicate'"):
        weight, number = float(run.data.params["aux_weight"]), int(run.data.tags["replicate"])
        value = offset + per_weight * weight + 0.01 * number
        client.log_batch(run.info.run_id, metrics=[Metric(name, value, 0, 0)])
