"""The measures per epoch of the trials that others are compared with, to be stopped early."""

import contextlib
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from analysis.layout import Artifact
from study.record.outcome import epochs_of
from study.record.reader import FinishedTrial, RecordReader
from study.search.stopping import EarlyStopping, Rival
from study.spec import StudySpec
from study.spec.stopping import StoppingConfig, compared_objectives


class Rivals:
    """The rule of a study's early stopping, and the histories of the trials that a search can compare others with.

    Those of trials that end now are kept in memory; those of trials that ended under an earlier driver are read from
    the record when they are asked for.

    Args:
        spec: of a study that has such a rule.
        record: of the study.
        finished: the trials that ended earlier, by key.
    """

    def __init__(self, spec: StudySpec, record: RecordReader, finished: Mapping[str, FinishedTrial]):
        assert spec.stopping is not None
        self._config: StoppingConfig = spec.stopping
        self._directions = compared_objectives(spec)
        self._record = record
        self._finished = finished
        self._rivals: dict[str, Rival] = {}

    def keep(self, key: str, seeds: tuple[int, ...], folder: Path, candidates: Collection[str]) -> None:
        """A trial has ended with these files; forget all trials that are not among the candidates."""
        if key in candidates:
            self._rivals[key] = self._read(key, seeds, folder / Artifact.HISTORY)
        self._rivals = {each: rival for each, rival in self._rivals.items() if each in candidates}

    def lacks(self, keys: Iterable[str]) -> bool:
        """Whether the history of one of these trials has to be fetched from the record."""
        return any(key not in self._rivals for key in keys)

    def fetch(self, keys: Iterable[str]) -> None:
        """Read the histories of these trials from the record.

        One that was removed there, or is damaged, is empty: nothing is compared with it.

        Raises:
            StudyError: the record cannot be reached.
        """
        for key in keys:
            if key not in self._rivals:
                self._rivals[key] = self._fetched(key, self._finished[key])

    def rule(self, keys: Iterable[str]) -> EarlyStopping | None:
        """The rule for a trial that is compared with these; None if it is compared with none."""
        rivals = tuple(self._rivals[key] for key in keys)
        return EarlyStopping(self._config, self._directions, rivals) if rivals else None

    def _fetched(self, key: str, trial: FinishedTrial) -> Rival:
        if self._record.has_artifact(trial.run_id, Artifact.HISTORY):
            with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ValueError, KeyError):
                file = self._record.download(trial.run_id, Artifact.HISTORY, Path(folder))
                return self._read(key, trial.seeds, file)
        return Rival(key, trial.seeds, ())

    def _read(self, key: str, seeds: tuple[int, ...], history: Path) -> Rival:
        import pandas as pd

        epochs = epochs_of(pd.read_parquet(history))
        return Rival(key, seeds, tuple({name: epoch[name] for name in self._directions} for epoch in epochs))
