import platform
import resource
import threading
from pathlib import Path

import pytest
import ray
import torch

from study.engine.ray_cluster import connected
from study.engine.resources import Resources
from tests.study.conftest import RayCluster

# The first batches make the heap as large as it has to be: that other threads use it too decides how many it takes.
WARM_UP, BATCHES, FLOATS = 10, 10, 2**25  # 128 MiB: more than glibc keeps by default
PAGES = 4 * FLOATS // resource.getpagesize()


def _page_faults() -> int:
    """Page faults of a thread that takes and frees the same amount of memory for batch after batch."""
    faults = []

    def work() -> None:
        for _ in range(WARM_UP + BATCHES):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(FLOATS).add_(1)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return sum(faults[WARM_UP:])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other settings")
def test_a_worker_does_not_take_the_memory_of_each_batch_anew_from_the_system(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    here = _page_faults()
    with connected(Resources(ray_cluster.address), tmp_path / "ray.log"):
        in_worker = ray.get(ray.remote(_page_faults).remote())
    assert here > 0.9 * BATCHES * PAGES, "without the settings every batch requests its memory again"
    assert in_worker < 0.5 * BATCHES * PAGES
