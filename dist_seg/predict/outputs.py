"""The files that predict writes into a folder: what it wrote itself it may write again, nothing else."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from dist_seg.errors import DataError, UserError
from dist_seg.runtime.documents import decode
from dist_seg.storage.files import path_errors, write_whole

_RECORDS = ".predicted-*.jsonl"
"""A file of each rank: a line of name and digest for every content that was written."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A folder of outputs, and what this rank adds to it."""

    folder: Path
    record: Path
    known: set[tuple[str, str]] = field(default_factory=set)
    """Name and digest of what predict wrote, in this call and in earlier ones."""

    @classmethod
    def open(cls, folder: Path, files: Iterable[Path], rank: int = 0) -> Self:
        """Raises UserError where one of the files that are to be written is there and is not what predict wrote.

        An output that was changed since is such a file: predicted masks are corrected by hand.
        """
        with path_errors(folder, "cannot be read"):
            records = sorted(folder.glob(_RECORDS))
            known = {entry for record in records for entry in _entries(record.read_bytes())}
        outputs = cls(folder=folder, record=folder / _RECORDS.replace("*", str(rank)), known=known)
        for file in files:
            if file.exists() and not outputs._is_own(file):
                raise UserError(
                    f"--out {folder}: {file} would be overwritten, and predict did not write it as it is now; move it "
                    f"away or give another folder, such as {unused_folder(folder)}"
                )
        return outputs

    def write(self, file: Path, content: bytes) -> None:
        """Whole or not at all. Raises UserError, which names the file."""
        entry = (self._name(file), hashlib.sha256(content).hexdigest())
        if entry not in self.known:
            # Before the file: a call that is killed in between must not refuse what it wrote when it is repeated.
            self._note(entry)
        write_whole(file, content)

    def _is_own(self, file: Path) -> bool:
        with path_errors(file, "cannot be read"):
            return file.is_file() and (self._name(file), hashlib.sha256(file.read_bytes()).hexdigest()) in self.known

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _note(self, entry: tuple[str, str]) -> None:
        with path_errors(self.folder / entry[0]):
            self.folder.mkdir(parents=True, exist_ok=True)
        with path_errors(self.record), self.record.open("a", encoding="utf-8") as record:
            # A line of its own, whatever a killed call left half written.
            record.write(f"\n{json.dumps(entry)}\n")
        self.known.add(entry)


def unused_folder(folder: Path) -> Path:
    """A name beside the folder's that nothing has yet."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    number, free = 2, named.with_name(f"{named.name}_predicted")
    while free.exists():
        number, free = number + 1, named.with_name(f"{named.name}_predicted{number}")
    return free


def _entries(record: bytes) -> Iterable[tuple[str, str]]:
    """Name and digest of every whole line; a call that was killed may have left half a line."""
    for line in filter(None, record.splitlines()):
        try:
            yield decode(line, tuple[str, str], _RECORDS)
        except DataError:
            continue
