"""A study's record in memory: what a RecordReader reads, without a tracking server."""

import math
from dataclasses import dataclass, field, replace

from study.record.outcome import Outcome, mean_and_error
from study.record.reader import FinishedTrial, RecordedTrial
from trainables.measures import MEASURES
from trainables.trial import TrialConfig


@dataclass
class MemoryRecord:
    """The trials that a driver has begun, and how they ended."""

    runs: list[RecordedTrial] = field(default_factory=list)

    def start_trial(self, key: str, config: TrialConfig, place: int | None = None) -> str:
        """Begin a run of a trial; the other drivers' open runs are closed."""
        number = len(self.runs) + 1
        params = {name: str(value) for name, value in config.flat().items()}
        began = RecordedTrial(
            number,
            f"run-{number}",
            key,
            key,
            "RUNNING",
            "",
            "",
            {},
            params,
            config.seeds,
            "starting",
            "",
            "",
            number,
            0,
            place,
        )
        self.runs.append(began)
        return began.run_id

    def finish_trial(self, key: str, outcome: Outcome) -> None:
        """End the last run of a trial with a result."""
        errors = {measure.error for measure in MEASURES.values()}
        metrics = mean_and_error({name: each for name, each in outcome.measurements.items() if name not in errors})
        metrics |= {"seconds": sum(outcome.seconds.values())}
        metrics |= {f"seconds_{stage}": seconds for stage, seconds in outcome.seconds.items()}
        self._end(
            key,
            state="FINISHED",
            status=outcome.status,
            rlct_verdict=outcome.rlct_verdict,
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        )

    def fail_trial(self, key: str) -> None:
        """End the last run of a trial without a result."""
        self._end(key, state="FAILED", status="failed")

    def finished(self) -> dict[str, FinishedTrial]:
        """The finished trials by key."""
        return {
            run.key: FinishedTrial(
                run.run_id,
                run.name,
                run.status,
                run.rlct_verdict,
                run.metrics,
                run.params,
                int(run.ended * 1000),
                int(run.started),
                place=run.place,
            )
            for run in self.runs
            if run.state == "FINISHED"
        }

    def trials(self) -> list[RecordedTrial]:
        """Every run of a trial, in the order of beginning."""
        return list(self.runs)

    def unfinished(self) -> list[TrialConfig]:
        """The trials that have begun and have no result, in the order of beginning."""
        return list({run.key: run.config for run in self.runs if run.key not in self.finished()}.values())

    def _end(self, key: str, **changes: object) -> None:
        place = max(index for index, run in enumerate(self.runs) if run.key == key)
        self.runs[place] = replace(self.runs[place], ended=self.runs[place].started + 0.5, **changes)  # type: ignore[arg-type]
