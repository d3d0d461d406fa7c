"""Where trials run, and the resources of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """The device that one trial runs on."""

    threads: int  # of the CPU
    use_gpu: bool

    @property
    def torch_name(self) -> str:
        """PyTorch's name of the device."""
        return "cuda" if self.use_gpu else "cpu"

    def prepare(self) -> None:
        """Set PyTorch's threads in this process to those of the trial."""
        import torch

        torch.set_num_threads(self.threads)

    def hardware(self) -> str:
        """The GPU's model, or 'cpu'."""
        import torch

        return torch.cuda.get_device_name() if self.use_gpu else "cpu"


@dataclass(frozen=True)
class Resources:
    """The Ray cluster, a trial's share of it, and what a trial does about workers that die."""

    address: str | None = None  # of a running Ray cluster; None: one on this machine, or a new local one
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0.0
    concurrent: int | None = None  # most trials at the same time; None: as many as fit
    restarts: int = 3  # how often a trial whose worker or node has died goes on elsewhere, before it counts as failed
    snapshot_interval: float = 60.0  # seconds between two snapshots of a running trial

    @property
    def device(self) -> Device:
        """The device that one trial runs on."""
        return Device(self.cpus_per_trial, self.gpus_per_trial > 0)
