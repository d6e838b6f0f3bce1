"""Ends the process at one of its changes to a folder's files, as a kill or a power cut would.

The functions of the operating system that the package calls are replaced in the process that is to die.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, cast


class Failpoints:
    """Counts opens for writing, writes, fsyncs, renames, links, removals and new folders below `root`; at number
    `die_at`, counted from 1, the process dies before it is done, or in the middle of a write.

    power_cut: what was not synchronised is lost with it: contents that were written and names that were changed.
    """

    def __init__(self, root: Path, die_at: int, *, power_cut: bool) -> None:
        self._root, self._die_at, self._power_cut = str(root), die_at, power_cut
        self.count = 0
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {}
        self._unsynced: set[str] = set()
        self._renames: list[tuple[str, str, bytes | None]] = []
        """What was renamed to what, and what was there before, if that was a file."""

    def install(self) -> None:
        """Replaces the functions for the rest of this process's life."""
        real_open, real_write, real_fsync = os.open, os.write, os.fsync
        real_path_open = Path.open

        def open_(path: str | Path, flags: int, mode: int = 0o777) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                self._at(str(path))
            descriptor = real_open(path, flags, mode)
            self._opened(descriptor, str(path), writing=bool(flags & (os.O_WRONLY | os.O_RDWR)))
            return descriptor

        def path_open(path: Path, mode: str = "r", *rest: object, **named: object) -> IO[bytes]:
            if "w" in mode:
                self._at(str(path))
            file = cast(Callable[..., IO[bytes]], real_path_open)(path, mode, *rest, **named)
            self._opened(file.fileno(), str(path), writing="w" in mode)
            return file

        def write_half(descriptor: int, content: bytes | memoryview) -> None:
            with suppress(OSError):  # Past the page cache a half may have no length that the device can write.
                real_write(descriptor, memoryview(content)[: len(content) // 2])

        def write(descriptor: int, content: bytes | memoryview) -> int:
            if path := self._paths.get(descriptor):
                self._at(path, lambda: write_half(descriptor, content))
            return real_write(descriptor, content)

        def fsync(descriptor: int) -> None:
            if path := self._paths.get(descriptor):
                self._at(path)
            real_fsync(descriptor)
            self._synced(self._paths.get(descriptor, ""))

        os.open, os.write, os.fsync = open_, write, fsync  # type: ignore[assignment]  # as far as the package uses them
        Path.open = path_open  # type: ignore[assignment,method-assign]  # likewise
        self._replace_renames()

    def _replace_renames(self) -> None:
        real = {"rename": os.rename, "replace": os.replace}
        real_mkdir, real_link, real_unlink = os.mkdir, os.link, os.unlink

        def renaming(name: str) -> Callable[[str | Path, str | Path], None]:
            def rename(source: str | Path, target: str | Path) -> None:
                self._at(str(target))
                replaced = Path(target).read_bytes() if os.path.isfile(target) else None
                real[name](source, target)
                self._renamed(str(source), str(target), replaced)

            return rename

        def mkdir(path: str | Path, mode: int = 0o777) -> None:
            self._at(str(path))
            real_mkdir(path, mode)

        def link(source: str | Path, target: str | Path, **named: bool) -> None:
            self._at(str(target))
            real_link(source, target, **named)

        def unlink(path: str | Path, **named: int) -> None:
            self._at(str(path))
            real_unlink(path, **named)

        os.link, os.unlink = link, unlink  # type: ignore[assignment]  # as far as the package uses them
        os.rename, os.replace = renaming("rename"), renaming("replace")  # type: ignore[assignment]  # likewise
        os.mkdir = mkdir  # type: ignore[assignment]  # likewise

    def die(self) -> None:
        """Kills the process; after a power cut nothing is left but what was synchronised."""
        if self._power_cut:
            for path in self._unsynced:
                if os.path.exists(path):
                    os.truncate(path, os.path.getsize(path) // 2)
            for source, target, replaced in reversed(self._renames):
                if os.path.exists(target) and not os.path.exists(source):
                    if not os.path.isdir(folder := os.path.dirname(source)):
                        _REAL_MKDIR(folder)  # To remove it was a change that is lost, too.
                    _REAL_RENAME(target, source)
                    if replaced is not None:
                        Path(target).write_bytes(replaced)
        os.kill(os.getpid(), signal.SIGKILL)

    def _at(self, path: str, half: Callable[[], object] = lambda: None) -> None:
        if not path.startswith(self._root):
            return
        with self._lock:
            self.count += 1
            dies = self.count == self._die_at
        if dies:
            half()
            self.die()

    def _opened(self, descriptor: int, path: str, *, writing: bool) -> None:
        if path.startswith(self._root):
            self._paths[descriptor] = path
            if writing:
                self._unsynced.add(path)
        else:
            self._paths.pop(descriptor, None)

    def _synced(self, path: str) -> None:
        self._unsynced.discard(path)
        self._renames = [rename for rename in self._renames if os.path.dirname(rename[1]) != path]

    def _renamed(self, source: str, target: str, replaced: bytes | None) -> None:
        if target.startswith(self._root):
            moved = {path for path in self._unsynced if path == source or path.startswith(f"{source}/")}
            self._unsynced = (self._unsynced - moved) | {target + path[len(source) :] for path in moved}
            self._renames.append((source, target, replaced))


_REAL_RENAME, _REAL_MKDIR = os.rename, os.mkdir


def killed(work: Callable[[], object]) -> bool:
    """Does the work in a fork of this process; whether that was killed. Raises RuntimeError where it failed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(f"the work ended with status {status}")
    return False
