"""The files that predict writes into a folder. It overwrites only files that it wrote itself."""

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
"""One record per rank, with a line of name and digest for every content that it wrote."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The output folder, and this rank's record of what it wrote there."""

    folder: Path
    record: Path
    known: set[tuple[str, str]] = field(default_factory=set)
    """(name, digest) of everything that predict wrote, in this call and in earlier ones."""

    @classmethod
    def open(cls, folder: Path, files: Iterable[Path], rank: int = 0) -> Self:
        """Opens the folder for writing `files`.

        Raises UserError if one of the files exists and is not what predict wrote. That includes outputs that were
        changed since, because people correct predicted masks by hand.
        """
        with path_errors(folder, "cannot be read"):
            records = sorted(folder.glob(_RECORDS))
            known = {entry for record in records for entry in _entries(record.read_bytes())}
        outputs = cls(folder=folder, record=folder / _RECORDS.replace("*", str(rank)), known=known)
        for file in files:
            if file.exists() and not outputs._is_own(file):
                raise UserError(
                    f"--out {folder}: {file} would be overwritten, but it is not what predict wrote there; move it "
                    f"away or give another folder, such as {unused_folder(folder)}"
                )
        return outputs

    def write(self, file: Path, content: bytes) -> None:
        """Writes a file whole or not at all. Raises UserError with the file's name if that fails."""
        entry = (self._name(file), hashlib.sha256(content).hexdigest())
        if entry not in self.known:
            # Recorded before the file is written: if the call is killed in between, a repeated call may overwrite it.
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
            # Starts a new line, because a killed call may have left half a line.
            record.write(f"\n{json.dumps(entry)}\n")
        self.known.add(entry)


def unused_folder(folder: Path) -> Path:
    """A path beside the folder that does not exist yet."""
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
