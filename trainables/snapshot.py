"""Snapshots of a running trial: from the newest one another worker goes on after this one has died.

A trial has parts that have a state (training, the chains of the rlct, the observer). Each says once how its state is
read, and calls `save_if_due` wherever it could go on from it. A checkpoint is something else: the weights of a finished
trial.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from trainables.code import package_digest
from trainables.config import PROTOCOL_VERSION
from trainables.states import State, prefixed, under
from trainables.trial import TrialConfig

NAME, PREVIOUS, UNFINISHED = "snapshot", "snapshot-previous", "snapshot-unfinished"
# Raise this when the file's format changes.
FORMAT = 1
# Snapshots may take at most this share of a trial's time: those of large networks on a slow disk are taken less often.
LARGEST_SHARE = 0.02

_log = logging.getLogger(__name__)


class SnapshotFile:
    """The newest two snapshots of one trial, in a folder of its own.

    A file has a line with the SHA-256 of what follows, a line of JSON that says which trial, data and code the snapshot
    belongs to, and the state in the format of safetensors, which cannot run code.

    Args:
        folder: made at the first snapshot; no other trial may use it.
        data_digest: of the trial's data.
        interval: seconds between two snapshots; more where saving would take more than LARGEST_SHARE of the time.
        on_saved: called after each snapshot with the folder.
    """

    def __init__(self, folder: Path, data_digest: str, interval: float, on_saved: Callable[[Path], None] | None = None):
        self.interval = interval
        self._folder = folder
        self._data_digest = data_digest
        self._on_saved = on_saved

    def load(self, config: TrialConfig, device: str) -> State:
        """The newest state of the trial; empty if there is none that is whole and belongs to this trial and code."""
        for name in (NAME, PREVIOUS):
            path = self._folder / name
            try:
                return self._read(path, self._identity(config, device))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, SafetensorError) as error:
                _log.warning("The snapshot %s is not used: %s", path, error)
        return {}

    def save(self, state: State, config: TrialConfig, device: str) -> None:
        """Write a snapshot; the one before it is kept. A snapshot that cannot be written does not end the trial."""
        identity = json.dumps(self._identity(config, device)).encode()
        tensors = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
        digest = hashlib.sha256(identity + b"\n")
        digest.update(tensors)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished, path = self._folder / UNFINISHED, self._folder / NAME
            with unfinished.open("wb") as file:
                file.write(digest.hexdigest().encode() + b"\n" + identity + b"\n")
                file.write(tensors)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                path.replace(self._folder / PREVIOUS)
            unfinished.replace(path)
        except OSError as error:
            _log.warning("No snapshot could be written to %s: %s", self._folder, error)
            return
        if self._on_saved is not None:
            self._on_saved(self._folder)

    def remove(self) -> None:
        """Remove the trial's snapshots, once its result is kept elsewhere."""
        for name in (NAME, PREVIOUS, UNFINISHED):
            (self._folder / name).unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _identity(self, config: TrialConfig, device: str) -> dict[str, object]:
        return {
            "format": FORMAT,
            "trial": config.model_dump(mode="json"),
            "data": self._data_digest,
            "code": package_digest(),
            "protocol version": PROTOCOL_VERSION,
            "PyTorch": torch.__version__,
            "device": torch.device(device).type,  # Devices round differently and have other random streams.
            "number of threads": torch.get_num_threads(),  # Sums over several threads are rounded differently.
        }

    @staticmethod
    def _read(path: Path, identity: dict[str, object]) -> State:
        """The state in a file.

        Raises:
            OSError: the file cannot be read.
            ValueError, SafetensorError: it is damaged, or belongs to something else.
        """
        digest, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            raise ValueError("it is damaged (its digest differs)")
        header, _, tensors = content.partition(b"\n")
        found = json.loads(header)
        differing = [name for name in identity if found.get(name) != identity[name]]
        if differing:
            raise ValueError(f"it belongs to another {', '.join(differing)}")
        return load(tensors)


class Snapshots:
    """Takes the snapshots of one run of a trial. Without a file it takes none, and nothing is restored."""

    def __init__(self, config: TrialConfig | None = None, device: str = "cpu", file: SnapshotFile | None = None):
        self._config, self._device, self._file = config, device, file
        self._parts: dict[str, Callable[[], State]] = {}
        self._restored: State = {} if file is None or config is None else file.load(config, device)
        self._due = time.monotonic() + (0.0 if file is None else file.interval)

    def restored(self, part: str) -> State:
        """The state that a part had in the snapshot; empty if there is no snapshot, or none of this part."""
        return under(part, self._restored)

    def include(self, part: str, state: Callable[[], State]) -> None:
        """From now on snapshots have this part; `state` is called for each of them."""
        self._parts[part] = state

    def exclude(self, part: str) -> None:
        """From now on snapshots do not have this part."""
        self._parts.pop(part, None)

    def save_if_due(self) -> None:
        """Take a snapshot if the last one is old enough; each part's state is read here."""
        started = time.monotonic()
        if self._file is None or self._config is None or started < self._due:
            return
        state: dict[str, torch.Tensor] = {}
        for part, of_part in self._parts.items():
            state |= prefixed(part, of_part())
        self._file.save(state, self._config, self._device)
        self._restored = {}  # Its parts have been taken up, or are of no use.
        ended = time.monotonic()
        self._due = ended + max(self._file.interval, (ended - started) / LARGEST_SHARE)
