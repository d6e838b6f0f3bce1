"""Reads one committed checkpoint from a local folder or an object store. No file is used before its checksum matches.

    step-00001000/model.safetensors, ema.safetensors, optimizer.safetensors, meta.json, checksums.json

Nothing is ever unpickled, and no other file is opened.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dist_seg.checkpoint.backends import COMMIT_NAME, checkpoint_errors
from dist_seg.checkpoint.checksum import Checksum
from dist_seg.checkpoint.state import CheckpointMeta, TrainingState
from dist_seg.checkpoint.tensors import PIECE_BYTES, TensorInfo, decoded, read_header
from dist_seg.errors import CheckpointError, DataError, MissingObjectError, StorageError
from dist_seg.runtime.documents import decode
from dist_seg.storage.object_store import Storage, is_remote, open_storage

_log = logging.getLogger(__name__)
STEP_NAME = re.compile(r"step-(\d{8,})")
"""Name of a checkpoint's folder in a store."""
TENSOR_FILES = ("model", "ema", "optimizer")
_META_NAME = "meta.json"
_FILES = (*(f"{name}.safetensors" for name in TENSOR_FILES), _META_NAME)


def checkpoint_exists(location: str | Path) -> bool:
    """Whether there is a committed checkpoint. Raises CheckpointError if the storage cannot be read."""
    with checkpoint_errors():
        return open_storage(location).exists(COMMIT_NAME)


def verify_checkpoint(location: str | Path, tensor_files: Sequence[str] = TENSOR_FILES) -> None:
    """Reads every byte of a checkpoint. Raises CheckpointError naming the file that does not match its checksum."""
    folder = _Folder(location)
    for name in [*(f"{name}.safetensors" for name in tensor_files), _META_NAME]:
        folder.check(name)


def damages(location: str | Path) -> list[str]:
    """All faults of a checkpoint, found by reading every byte; empty for a whole one."""
    try:
        folder = _Folder(location)
    except CheckpointError as error:
        return [str(error)]
    found = []
    for name in _FILES:
        try:
            folder.check(name)
        except CheckpointError as error:
            found.append(str(error))
    try:
        load_meta(location)
        for name in TENSOR_FILES:
            tensor_infos(location, name)
    except CheckpointError as error:
        found.append(str(error))
    return list(dict.fromkeys(found))


def glance(location: str | Path) -> tuple[int, float, str]:
    """A checkpoint's size in bytes, the time of its commit (Unix time), and the first fault that names, lengths and
    headers show; an empty text if there is none."""
    num_bytes, committed_s = 0, 0.0
    try:
        folder = _Folder(location)
        committed_s = folder.storage.modified(COMMIT_NAME)
        num_bytes = folder.storage.size(COMMIT_NAME)
        for name in _FILES:
            num_bytes += folder.storage.size(name)
        for name in TENSOR_FILES:
            tensor_infos(location, name)
        load_meta(location)
    except (DataError, StorageError, CheckpointError) as error:
        return num_bytes, committed_s, str(error)
    return num_bytes, committed_s, ""


def tensor_infos(location: str | Path, name: str) -> dict[str, TensorInfo]:
    """Names, types and shapes of the tensors in one of `TENSOR_FILES`, read from its header."""
    with checkpoint_errors():
        return read_header(open_storage(location), f"{name}.safetensors")[0]


def load_checkpoint(location: str | Path) -> TrainingState:
    """Loads a whole checkpoint and verifies its checksums. Raises CheckpointError naming the faulty file."""
    folder = _Folder(location)
    meta = _parsed_meta(location, folder.verified(_META_NAME))
    tensors = {name: folder.tensors(name) for name in TENSOR_FILES}
    return TrainingState(meta=meta, **tensors)


def load_meta(location: str | Path) -> CheckpointMeta:
    """Loads a checkpoint's description, without its tensors and without verifying its checksum."""
    return _parsed_meta(location, _read(open_storage(location), _META_NAME))


def load_weights(location: str | Path, weights: str) -> dict[str, torch.Tensor]:
    """Loads a checkpoint's model state: `raw`, or `ema`, where tensors with a moving average are replaced by it."""
    folder = _Folder(location)
    folder.check(_META_NAME)
    average = folder.tensors("ema") if weights == "ema" else {}
    if weights == "ema" and not average:
        raise CheckpointError(f"{location}: no moving average was kept (train.ema_decay=0); use --weights raw")
    return {**folder.tensors("model"), **average}


class _Folder:
    """The files of one checkpoint. Each is compared with its checksum, and read a second time if it does not match.

    Raises CheckpointError for checksums that cannot be those of a checkpoint.
    """

    def __init__(self, location: str | Path) -> None:
        self.storage: Storage = open_storage(location)
        self._local = None if is_remote(location) else Path(self.storage.url)
        text = _read(self.storage, COMMIT_NAME)
        self._checksums = decode(text, dict[str, str], self._where(COMMIT_NAME), error=CheckpointError)
        strangers = sorted(self._checksums.keys() - set(_FILES))
        if strangers:
            raise CheckpointError(
                f"names {strangers[0]!r}, which is no file of a checkpoint; it is damaged or was not written by "
                "dist-seg. No other file was read",
                where=self._where(COMMIT_NAME),
            )

    def check(self, name: str) -> None:
        """Verifies a file, read in pieces that are not kept."""
        self._matching(name, lambda: self._checksum(name, None))

    def verified(self, name: str) -> bytearray:
        """A file's verified content."""
        content = bytearray()
        self._matching(name, lambda: self._checksum(name, content))
        return content

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The verified tensors of one of `TENSOR_FILES`."""
        file = f"{name}.safetensors"
        if self._local is None:
            return decoded(self.verified(file), self._where(file))
        self.check(file)
        try:
            return load_file(self._local / file)  # Memory-mapped, so no second copy is held.
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._where(file)}: unreadable tensors: {error}") from error

    def _matching(self, name: str, checksum_of: Callable[[], str]) -> None:
        for attempt in ("first", "fresh"):
            with checkpoint_errors():
                try:
                    checksum = checksum_of()
                except MissingObjectError as error:
                    raise CheckpointError("missing; this is not a whole checkpoint", where=self._where(name)) from error
            if checksum == self._checksums.get(name):
                return
            if attempt == "first":
                _log.warning("%s: its content does not match %s; reading it again", self._where(name), COMMIT_NAME)
        raise CheckpointError(f"{self._where(name)}: its content does not match {COMMIT_NAME}; it is damaged")

    def _checksum(self, name: str, content: bytearray | None) -> str:
        """Computes the checksum of a file, and fills `content` with its bytes if given."""
        checksum, size = Checksum(self._checksums.get(name, "")), self.storage.size(name)
        if content is not None:
            content[:] = bytes(size)
        for begin in range(0, size, PIECE_BYTES):
            piece = self.storage.read_range(name, begin, min(PIECE_BYTES, size - begin))
            checksum.update(piece)
            if content is not None:
                content[begin : begin + len(piece)] = piece
        return checksum.text

    def _where(self, name: str) -> str:
        return f"{self.storage.url}/{name}"


def _parsed_meta(location: str | Path, text: bytes | bytearray) -> CheckpointMeta:
    url = open_storage(location).url
    where = f"{url}/{_META_NAME}"
    meta = CheckpointMeta.parse(text, where)
    named = STEP_NAME.fullmatch(url.rsplit("/", 1)[-1])
    if named and int(named.group(1)) != meta.step:
        raise CheckpointError(f"is of step {meta.step}, but its folder is named after another step", where=where)
    return meta


def _read(storage: Storage, name: str) -> bytes:
    with checkpoint_errors():
        try:
            return storage.read(name)
        except MissingObjectError as error:
            raise CheckpointError(f"{error.reason}; is this a checkpoint folder?", where=error.where) from error
