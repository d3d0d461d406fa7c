"""The layout of a study in the tracking store: levels of runs, tags, artifact paths.

Writer and readers both use this module.

The experiment is the study. It has a run for the study, under it a run per trial, and under each trial a run per
replicate and a run per repeated rlct estimate. Parameters are the fields of the trial's configuration, metrics its
measures.

A trial that gets more replicates has a new run, with all of them, which supersedes the former one, and so has a trial
that was interrupted and runs again. Once the new run is finished, the former ones no longer count, nor do the runs
under them.
"""

from enum import StrEnum


class Level(StrEnum):
    """What a run represents: the value of its tag `level`."""

    STUDY = "study"
    TRIAL = "trial"
    REPLICATE = "replicate"
    ESTIMATE = "estimate"


class Tag(StrEnum):
    """Tags of runs."""

    LEVEL = "level"
    PARENT = "mlflow.parentRunId"
    # Of the study's run.
    QUESTION = "question"
    PROTOCOL = "protocol"
    OBJECTIVES = "objectives"
    TRIALS = "trials"  # number of trials of the whole study
    WORKERS = "workers"  # number of trials side by side as it was last run
    OPENED = "opened"  # when a driver last began to run it, in milliseconds since 1970
    BUDGET = "budget"  # JSON of the budget that it was last run with
    # JSON of the rule of early stopping: of the study's run, the one that it was last run with, empty without one; of
    # the run of a trial that was stopped early, the one that has stopped it.
    STOPPING = "stopping"
    STOPPED = "stopped"  # why the last driver stopped before the end, if it did
    # Of the runs of studies and trials.
    TASK = "task"
    DATA_DIGEST = "data_digest"
    VALIDATION_SPLIT = "validation_split"
    GIT_COMMIT = "git_commit"
    # Of trials' runs and the runs under them.
    TRIAL_KEY = "trial_key"
    SEEDS = "seeds"  # of a trial's run: JSON list of the seeds of its replicates
    # Of a trial's run that replaces others of the same trial, with fewer replicates or interrupted: their ids, with
    # commas between them; and, where it has more replicates, when the first one began, in milliseconds since 1970.
    SUPERSEDES = "supersedes"
    BEGUN = "begun"
    PLACE = "place"  # of a trial's run: the trial's place in the study's search, from 0
    REPLICATE = "replicate"
    REPLICATE_KEY = "replicate_key"  # of a replicate's run: hash of the trial's key and the replicate's seed
    STATUS = "status_detail"
    VERDICT = "rlct_verdict"
    VERDICT_REASON = "rlct_reason"
    VERDICT_ADVICE = "rlct_advice"
    CAVEATS = "rlct_caveats"  # what the estimate does not say, whatever its verdict: names with commas between them
    NBETA = "nbeta"
    RLCT_SETTINGS = "rlct_settings"
    DEVICE = "device"
    HOST = "host"
    NODE = "node"  # of Ray
    # Of a trial's run: what it had while it ran, and JSON of what the runs had used that it has replaced.
    CPUS = "cpus"
    GPUS = "gpus"
    NODE_TYPE = "node_type"
    NODE_SHARE = "node_share"  # 1 is a whole node
    USED_BEFORE = "used_before"
    STAGE = "stage"  # how far a running trial is, at most every ten seconds; of a failed one, how far it came
    REASON = "reason"  # why a trial failed or was stopped early, in a line


class ExperimentTag(StrEnum):
    """Tags of the experiment: who runs the study."""

    LEASES = "lease."  # beginning of the name of each driver's own tag
    LAST_LEASE = "lease"  # id of the driver that held the study last
    STOP = "stop"  # request to a driver


class Artifact(StrEnum):
    """Paths of artifacts within a run."""

    # Of the study's run.
    SPEC = "spec.yaml"
    DESCRIPTION = "description.json"
    REPORT = "report"
    CALIBRATION = "rlct-calibration"
    # Of a trial's run.
    CHECKPOINT = "checkpoint/weights.safetensors"
    HISTORY = "history.parquet"
    OUTCOME = "outcome.json"
    ERROR = "error.txt"
    # Of the runs of trials and estimates.
    RLCT_TRACE = "rlct/trace.parquet"
    RLCT_PICTURE = "rlct/trace.png"
    # Of an estimate's run.
    ESTIMATE = "estimate.json"


# Suffix of the standard error over replicates of a measure, on a trial's run.
ERROR_SUFFIX = "_se"
# Suffix of the standard error over chains of a replicate's value, on the replicate's run and in `estimate.json`.
CHAIN_ERROR_SUFFIX = "_chain_se"
# Suffix of the tag with the verdict on a further estimate; the measure has a value only if it is usable.
VERDICT_SUFFIX = "_verdict"
# The measure that has a verdict and can be estimated again. Its settings are the params `rlct_<name>` of the runs and
# the entries `rlct.<name>` of the study's protocol.
ESTIMATED = "rlct"
# The param of a trial's and a replicate's run that lists the depths of the target layers.
TARGET_DEPTHS = "target_depths"
# Params of a replicate's run that are not part of its trial's configuration.
REPLICATES, SEED, SEEDS = "replicates", "seed", "seeds"
# The entries of the study's protocol that say by which code and for which objectives its trials were made.
PROTOCOL_VERSION, PROTOCOL_OBJECTIVES = "protocol_version", "objectives"
# The status of a trial that was stopped before its end: its values are those of the epoch at which it was stopped.
STOPPED_EARLY = "stopped_early"
# The verdict of a trial that has no estimate, or none with the requested settings.
NO_ESTIMATE = "not_estimated"
# Prefixes of the study's tags that tell in which environment the study ran.
ENVIRONMENT_TAGS = ("driver.", "platform", "version.")
