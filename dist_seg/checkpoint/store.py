"""Checkpoints in a folder: each is a folder of its own, committed by one rename, so a reader sees a whole one or none.

    checkpoints/step-00001000/model.safetensors, ema.safetensors, optimizer.safetensors, meta.json, checksums.json

Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dist_seg.checkpoint.state import FORMAT_VERSION, CheckpointMeta, TrainingState
from dist_seg.errors import CheckpointError
from dist_seg.runtime.files import path_errors, sync_folder, write_whole

_log = logging.getLogger(__name__)
_NAME = re.compile(r"step-(\d{8,})")
_TENSOR_FILES = ("model", "ema", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay: the newest `keep_last`, the best, and those at multiples of `keep_every_steps`."""

    keep_last: int
    keep_best: bool
    keep_every_steps: int


class CheckpointStore:
    """The checkpoints of one run, in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, rising. Raises CheckpointError where they cannot be listed."""
        with path_errors(self.root, "cannot be read", CheckpointError):
            if not self.root.is_dir():
                return []
            matches = [_NAME.fullmatch(entry.name) for entry in self.root.iterdir() if entry.is_dir()]
        return sorted(int(match.group(1)) for match in matches if match)

    def path(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def save(self, state: TrainingState) -> Path:
        """Writes a checkpoint and commits it. Raises CheckpointError with the cause; older ones stay as they were."""
        final = self.path(state.meta.step)
        temporary = self.root / f".{final.name}.tmp-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            temporary.mkdir()
            checksums: dict[str, str] = {}
            for name, content in _contents(state):  # One after the other: only one is held in memory.
                checksums[name] = hashlib.sha256(content).hexdigest()
                _write_durably(temporary / name, content)
            _write_durably(temporary / "checksums.json", json.dumps(checksums, indent=1).encode())
            sync_folder(temporary)
            if final.exists():  # Of this step already: renamed first, as a half deleted one must not look whole.
                final.rename(self.root / f".deleted-{final.name}-{os.getpid()}")
            temporary.rename(final)
            sync_folder(self.root)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"{final}: the checkpoint could not be written: {error.strerror or error}. Earlier checkpoints are "
                "whole; free space or mend the folder's permissions, then start the same command again"
            ) from error
        return final

    def begin_at(self, step: int) -> list[int]:
        """Sets checkpoints and scores beyond `step` aside, in `superseded-N/`: another history begins here.

        Returns their steps. Nothing is deleted, and neither retention nor `best_step` sees them any more. Raises
        CheckpointError where that is not possible.
        """
        beyond = [other for other in self.steps() if other > step]
        scores = self.scores()
        if beyond:
            number = next(n for n in range(1, 10**6) if not (self.root / f"superseded-{n}").exists())
            aside = self.root / f"superseded-{number}"
            with path_errors(aside, "later checkpoints cannot be set aside there", CheckpointError):
                aside.mkdir()
                for other in beyond:
                    self.path(other).rename(aside / self.path(other).name)
        if any(other > step for other in scores):
            self._write_scores({other: miou for other, miou in scores.items() if other <= step})
        return beyond

    def record_score(self, step: int, miou: float) -> None:
        """Remembers how the weights of a step scored, for `best_step` and so that no evaluation is done twice.

        Raises CheckpointError where it cannot be written.
        """
        self._write_scores({**self.scores(), step: miou})

    def _write_scores(self, scores: Mapping[int, float]) -> None:
        write_whole(self.root / "scores.json", json.dumps(scores), CheckpointError)

    def scores(self) -> dict[int, float]:
        """The recorded mIoU by step."""
        file = self.root / "scores.json"
        return {int(step): cast(float, miou) for step, miou in _read_json(file).items()} if file.exists() else {}

    def best_step(self) -> int | None:
        """The step with the highest score among the checkpoints that are there."""
        scores = {step: miou for step, miou in self.scores().items() if step in self.steps() and miou == miou}
        return max(scores, key=lambda step: scores[step]) if scores else None

    def prune(self, retention: Retention) -> list[int]:
        """Deletes what the policy does not keep; returns the deleted steps."""
        steps = self.steps()
        kept = set(steps[-retention.keep_last :])
        if retention.keep_best and (best := self.best_step()) is not None:
            kept.add(best)
        if retention.keep_every_steps:
            kept.update(step for step in steps if step % retention.keep_every_steps == 0)
        deleted = [step for step in steps if step not in kept]
        for step in deleted:
            # Renamed first: a folder that is half deleted must not look like a checkpoint.
            doomed = self.root / f".deleted-{step:08d}-{os.getpid()}"
            self.path(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return deleted

    def newest_whole(self) -> Path | None:
        """The folder of the newest checkpoint whose checksums hold, or None where there is no checkpoint.

        Damaged ones are named in the log and passed over. Raises CheckpointError where all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                verify_checkpoint(self.path(step))
            except CheckpointError as error:
                _log.warning("passed over: %s", error)
            else:
                return self.path(step)
        if steps:
            raise CheckpointError(
                f"{self.root}: none of its {len(steps)} checkpoints is whole; restore one, or start anew with --fresh"
            )
        return None

    def _sweep(self) -> None:
        for leftover in [*self.root.glob(".step-*.tmp-*"), *self.root.glob(".deleted-*")]:
            shutil.rmtree(leftover, ignore_errors=True)


def verify_checkpoint(folder: Path, tensor_files: Sequence[str] = _TENSOR_FILES) -> None:
    """Raises CheckpointError that names the file whose content does not match its checksum."""
    checksums = _read_json(folder / "checksums.json")
    for name in [*(f"{name}.safetensors" for name in tensor_files), "meta.json"]:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; this is not a whole checkpoint")
        with path_errors(folder / name, "cannot be read", CheckpointError), (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksums.get(name):
                raise CheckpointError(f"{folder / name}: its content does not match checksums.json; it is damaged")


def load_checkpoint(folder: Path) -> TrainingState:
    """A whole checkpoint, its checksums verified. Raises CheckpointError that names the file at fault."""
    verify_checkpoint(folder)
    return TrainingState(meta=load_meta(folder), **{name: _load_tensors(folder, name) for name in _TENSOR_FILES})


def _load_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    file = folder / f"{name}.safetensors"
    try:
        with path_errors(file, "cannot be read", CheckpointError):
            return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: unreadable tensors: {error}") from error


def _contents(state: TrainingState) -> Iterator[tuple[str, bytes]]:
    for name in _TENSOR_FILES:
        yield f"{name}.safetensors", save(dict(getattr(state, name)))
    yield "meta.json", json.dumps(dataclasses.asdict(state.meta), indent=1).encode()


def load_meta(folder: Path) -> CheckpointMeta:
    """A checkpoint's description without its tensors."""
    content = dict(_read_json(folder / "meta.json"))
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: checkpoint format {version}, this version reads {FORMAT_VERSION}; "
            "use the dist-seg version that wrote it"
        )
    try:
        return CheckpointMeta(**content)  # type: ignore[arg-type]  # what was written by asdict of the same class
    except TypeError as error:
        raise CheckpointError(f"{folder / 'meta.json'}: {error}") from error


def load_weights(folder: Path, weights: str) -> dict[str, torch.Tensor]:
    """A checkpoint's model state: `raw`, or `ema` with the average in place of every tensor that has one."""
    verify_checkpoint(folder, ("model", "ema"))
    average = _load_tensors(folder, "ema") if weights == "ema" else {}
    if weights == "ema" and not average:
        raise CheckpointError(f"{folder}: no moving average was kept (train.ema_decay=0); use --weights raw")
    return {**_load_tensors(folder, "model"), **average}


def _read_json(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file; is this a checkpoint folder?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: unreadable: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return cast(dict[str, object], content)


def _write_durably(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
