"""Estimates on Ray: one task per trial and settings.

The tasks are independent: a worker that dies is replaced, and its task starts again. While the record is away, tasks
go on for the trials whose weights are here already.
"""

from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence

import ray

from study.engine.code import CodeVersion, OtherCodeError, check_code, code_here
from study.engine.estimation import Job
from study.engine.ray_capacity import most_side_by_side
from study.engine.ray_place import place_here
from study.engine.resources import Device, Resources
from study.engine.runner import Estimated, StudyData, Weights
from trainables.config import RlctConfig
from trainables.errors import CheckpointError, CheckpointMismatchError

# A worker that dies (node lost, out of memory) is no error of the estimate: try again elsewhere.
RETRIES = 3
# Seconds after which it is seen again whether a record that was away is back.
INTERVAL = 5.0


def run_estimates(
    jobs: Sequence[Job], weights: Weights, data: Mapping[str, StudyData], resources: Resources
) -> Generator[tuple[Job, Estimated | Exception]]:
    """Yield each job when it ends, with its estimate or the error.

    Raises:
        OtherCodeError: a node has another version of the code.
        CheckpointMismatchError: a checkpoint belongs to other code or data, and so do all others.
        StudyError: the record stays away, and no task runs.
    """
    task = ray.remote(_estimate).options(
        num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=RETRIES
    )
    shared_data = {task: ray.put(of_task) for task, of_task in data.items()}
    code = code_here()
    limit = resources.concurrent or 2 * most_side_by_side(resources)
    waiting = list(reversed(jobs))
    running: dict[ray.ObjectRef[Estimated], Job] = {}
    jobs_left: dict[str, int] = defaultdict(int)
    for job in jobs:
        jobs_left[job.trial_key] += 1
    # Weights are fetched once per trial, and kept until its last job has been started.
    held: dict[str, ray.ObjectRef[bytes]] = {}
    while waiting or running:
        is_away = False
        while waiting and len(running) < limit and not is_away:
            job = waiting.pop()
            if job.trial_key not in held:
                try:
                    checkpoint = weights(job, patiently=not running)
                except CheckpointMismatchError:
                    raise
                except CheckpointError as error:
                    yield job, error
                    continue
                if checkpoint is None:
                    waiting.append(job)
                    is_away = True
                    continue
                held[job.trial_key] = ray.put(checkpoint)
            of_task = shared_data[job.task]
            running[task.remote(held[job.trial_key], of_task, job.settings, resources.device, code)] = job
            jobs_left[job.trial_key] -= 1
            if jobs_left[job.trial_key] == 0:
                del held[job.trial_key]
        ready, _ = ray.wait(list(running), num_returns=1, timeout=INTERVAL if is_away else None)
        for ended in ready:
            job = running.pop(ended)
            try:
                yield job, ray.get(ended)
            except OtherCodeError as error:
                # Ray's own error, which has the worker's traceback as its text, is an OtherCodeError too.
                raise getattr(error, "cause", error) from error
            except ray.exceptions.RayError as error:
                yield job, error


def _estimate(weights: bytes, data: StudyData, settings: RlctConfig, device: Device, code: CodeVersion) -> Estimated:
    from study.engine.worker import estimate_again

    place = place_here()
    check_code(code, str(place))
    return estimate_again(weights, data, settings, device, place.node)
