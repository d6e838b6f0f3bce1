"""Files that are whole or not there, through crashes and power cuts, and locks that a dead process does not keep."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dist_seg.errors import CheckpointError, DataError, StorageError, UserError
from dist_seg.storage.files import atomic_write, file_lock, locked, write_whole
from tests.failpoints import Failpoints, killed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")


def _write(path: Path, how: str) -> None:
    if how == "write_whole":
        write_whole(path, "new")
    else:
        with atomic_write(path) as file:
            file.write(b"new")


def _dies_at(path: Path, how: str, number: int) -> bool:
    """Whether the write was cut off by a power cut at its change to the disk of that number."""

    def work() -> None:
        points = Failpoints(path.parent, number, power_cut=True)
        points.install()
        _write(path, how)
        if points.count < number:
            os._exit(0)

    return killed(work)


@pytest.mark.parametrize("how", ["atomic_write", "write_whole"])
def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path: Path, how: str) -> None:
    number = 0
    died = True
    while died:
        number += 1
        path = tmp_path / f"{number}" / "result.json"
        path.parent.mkdir()
        path.write_text("old")
        died = _dies_at(path, how, number)
        assert path.read_text() in ("old", "new")
    assert number > 4  # opened, synchronised, renamed, the folder opened and synchronised


@pytest.mark.parametrize("how", ["atomic_write", "write_whole"])
def test_a_power_cut_right_after_the_write_takes_nothing_back(tmp_path: Path, how: str) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def work() -> None:
        points = Failpoints(tmp_path, -1, power_cut=True)
        points.install()
        _write(path, how)
        points.die()

    assert killed(work)
    assert path.read_text() == "new"


def test_folders_are_made_and_text_and_pieces_are_written(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a" / "b" / "x.txt", "é").read_bytes() == "é".encode()
    assert write_whole(tmp_path / "y", iter([b"1", memoryview(b"23")])).read_bytes() == b"123"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "x.txt", "y"]


@pytest.mark.parametrize("how", ["atomic_write", "write_whole"])
def test_an_error_leaves_what_was_there_and_no_rest(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kind = StorageError if how == "atomic_write" else UserError
    with pytest.raises(kind, match=r"x: cannot be written: No space left on device") as raised:
        _write(path, how)
    assert (raised.value.where, path.read_text(), os.listdir(tmp_path)) == (str(path), "old", ["x"])


def test_an_error_of_the_writers_own_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "x"):
        _ = 1 // 0
    assert os.listdir(tmp_path) == []


def test_the_kind_of_error_is_the_callers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/x: cannot be written: a file lies where a folder is needed"):
        write_whole(tmp_path / "file" / "x", "", CheckpointError)


# Holds the lock, starts a worker that outlives it, tells the worker's id and waits to be killed.
_HOLDER = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from dist_seg.storage.files import file_lock

with file_lock(Path(sys.argv[1])) as held:
    assert held
    match sys.argv[2]:
        case "os.fork":
            worker = os.fork()
            if not worker:
                time.sleep(600)
        case "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            process.start()
            worker = process.pid
        case "subprocess":
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False).pid
    print(worker, flush=True)
    time.sleep(600)
"""


@contextmanager
def _another_holder(path: Path, worker_by: str) -> Iterator[subprocess.Popen[str]]:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path), worker_by], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()


class TestLocks:
    @pytest.mark.parametrize("worker_by", ["os.fork", "multiprocessing", "subprocess"])
    def test_a_killed_process_frees_its_lock_though_its_workers_live(self, tmp_path: Path, worker_by: str) -> None:
        with _another_holder(tmp_path / "lock", worker_by) as holder:
            with file_lock(tmp_path / "lock") as held:
                assert not held
            holder.kill()
            holder.wait()
            with file_lock(tmp_path / "lock") as held:
                assert held

    def test_a_lock_is_free_after_its_context_and_its_file_stays(self, tmp_path: Path) -> None:
        for _ in range(2):
            with file_lock(tmp_path / "lock") as held:
                assert held
        assert os.listdir(tmp_path) == ["lock"]

    def test_a_lock_that_is_to_be_removed_leaves_no_file(self, tmp_path: Path) -> None:
        with file_lock(tmp_path / "lock", remove=True) as held:
            assert held and (tmp_path / "lock").exists()
        assert os.listdir(tmp_path) == []

    def test_a_lock_that_another_holds_is_not_removed(self, tmp_path: Path) -> None:
        with _another_holder(tmp_path / "lock", "os.fork"):
            with file_lock(tmp_path / "lock", remove=True) as held:
                assert not held
            assert (tmp_path / "lock").exists()

    def test_one_process_holds_a_lock_only_once(self, tmp_path: Path) -> None:
        with file_lock(tmp_path / "lock"), file_lock(tmp_path / "lock") as again:
            assert not again

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks_is_told_of(
        self, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)
        with caplog.at_level(logging.WARNING), file_lock(tmp_path / "lock") as held:
            assert held
        assert "lock: its file system has no locks" in caplog.text

    def test_another_fault_is_an_os_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match=r"file|directory"), file_lock(tmp_path / "file" / "lock"):
            pass

    def test_a_lock_whose_last_holder_just_removed_it_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another holder ends between our opening its lock file and locking it."""
        real = fcntl.flock

        def removed(descriptor: int, operation: int) -> None:
            monkeypatch.setattr(fcntl, "flock", real)
            (tmp_path / "lock").unlink()
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", removed)
        with file_lock(tmp_path / "lock") as held:
            assert held and (tmp_path / "lock").exists()

    def test_an_error_inside_stays_what_it_is_and_frees_the_lock(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="mine"), file_lock(tmp_path / "lock"):
            raise OSError(errno.ENOLCK, "mine")
        with file_lock(tmp_path / "lock") as held:
            assert held

    def test_packing_is_kept_out_of_a_folder_that_is_being_packed(self, tmp_path: Path) -> None:
        with locked(tmp_path):
            with pytest.raises(DataError, match="is being packed into by another process"), locked(tmp_path):
                pass
            assert os.listdir(tmp_path) == [".pack.lock"]
        assert os.listdir(tmp_path) == []
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="file: cannot be written to: "), locked(tmp_path / "file"):
            pass
