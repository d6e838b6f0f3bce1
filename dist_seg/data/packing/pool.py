"""Packs shards in this process and in others."""

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

from dist_seg.data.packing.folder import PackState
from dist_seg.data.packing.options import Packing
from dist_seg.data.packing.records import MAX_REFUSALS, PackedShard, Refusal, listed
from dist_seg.data.packing.shard import RefusedSamplesError, pack_shard
from dist_seg.data.packing.shard_plan import ShardJob
from dist_seg.data.raw.source import AnySource
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.progress_bar import OnProgress
from dist_seg.runtime.worker_process import begin_worker

_POLL_S = 0.2

_Submit = Callable[[ShardJob], Future[PackedShard]]


def pack_shards(
    jobs: Sequence[ShardJob], packing: Packing, out: Path, on_progress: Callable[[int], None]
) -> Generator[PackedShard, None, None]:
    """Pack the jobs into `out` and yield each shard when it is done, in any order. Closing the generator ends the
    processes.

    `on_progress` gets the number of samples done. Raises `DataError` that names the refused samples or says that a
    worker died, and `UserError` for a source that cannot be sent to worker processes.
    """
    workers = min(packing.options.workers, len(jobs))
    if workers <= 1:
        yield from _packed_here(jobs, packing, out, on_progress)
        return
    _check_picklable(packing.source)
    context = multiprocessing.get_context("spawn")
    done: Synchronized[int] = context.Value("q", 0)
    worker = _Worker(packing=packing, out=out, done=done, stop=context.Event())
    others = workers - 1
    # This process also packs, in a thread: another process would take a second to start and load the libraries.
    here = ThreadPoolExecutor(1)
    elsewhere = ProcessPoolExecutor(others, mp_context=context, initializer=_start_worker, initargs=(worker,))

    def submit_here(job: ShardJob) -> Future[PackedShard]:
        return here.submit(worker.pack, job)

    def submit_elsewhere(job: ShardJob) -> Future[PackedShard]:
        return elsewhere.submit(_pack_in_worker, job)

    try:
        yield from _completed(jobs, [submit_here, *others * [submit_elsewhere]], lambda: on_progress(done.value))
    except BrokenProcessPool as error:
        raise DataError(
            "a packing process died without an error, perhaps killed for using too much memory; run again with fewer "
            "workers: finished shards are kept"
        ) from error
    finally:
        worker.stop.set()
        here.shutdown(wait=True)
        elsewhere.shutdown(wait=True)


def _check_picklable(source: AnySource) -> None:
    try:
        pickle.loads(pickle.dumps(source))
    except Exception as error:  # a user's object may raise anything
        raise UserError(
            f"the data set's reader, a {type(source).__name__}, cannot be sent to worker processes: {error}; define "
            "its class at the top level of a module without lambdas, locks and open files, or pack with --workers 1"
        ) from error


def _packed_here(
    jobs: Sequence[ShardJob], packing: Packing, out: Path, on_progress: Callable[[int], None]
) -> Iterator[PackedShard]:
    count = 0

    def on_sample() -> None:
        nonlocal count
        count += 1
        on_progress(count)

    for job in jobs:
        try:
            yield pack_shard(job, packing, out, on_sample)
        except RefusedSamplesError as error:
            raise _refused(list(error.refusals)) from None


def _completed(jobs: Sequence[ShardJob], workers: Sequence[_Submit], poll: Callable[[], None]) -> Iterator[PackedShard]:
    """Each job's shard when it is done. Every worker packs one shard at a time.

    After a refusal no new shard begins; the shards in progress are finished and yielded.
    """
    waiting, free = deque(jobs), deque(workers)
    in_progress: dict[Future[PackedShard], _Submit] = {}
    refusals: list[Refusal] = []
    while True:
        while waiting and free and not refusals:
            submit = free.popleft()
            in_progress[submit(waiting.popleft())] = submit
        if not in_progress:
            break
        for future in wait(in_progress, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
            free.append(in_progress.pop(future))
            try:
                yield future.result()
            except RefusedSamplesError as error:
                refusals.extend(error.refusals)
        poll()
    if refusals:
        raise _refused(refusals)


def _refused(refusals: list[Refusal]) -> DataError:
    reasons = [refusal.reason for refusal in sorted(refusals, key=lambda refusal: refusal.key)[:MAX_REFUSALS]]
    advice = "fix or remove what is wrong and pack again, or leave such samples out (--skip-bad)"
    if len(reasons) == 1:
        return DataError(f"{reasons[0]}\n{advice}")
    more = " or more" if len(refusals) >= MAX_REFUSALS else ""
    return DataError(f"{len(reasons)}{more} samples cannot be packed:{listed(reasons)}\n{advice}")


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """Packs shards in one process."""

    packing: Packing
    out: Path
    done: "Synchronized[int]"
    """Samples done by all workers."""
    stop: Event
    """Set when the main process gives up."""

    def pack(self, job: ShardJob) -> PackedShard:
        def on_sample() -> None:
            with self.done.get_lock():
                self.done.value += 1
            if self.stop.is_set():
                raise _StoppedError

        return pack_shard(job, self.packing, self.out, on_sample)


class _StoppedError(Exception):
    """The main process has given up."""


# A worker process gets its source once, not with every shard. A process pool offers no other place to keep it.
_worker: _Worker | None = None


def _start_worker(worker: _Worker) -> None:
    global _worker
    _worker = worker
    begin_worker()


def _pack_in_worker(job: ShardJob) -> PackedShard:
    assert _worker is not None
    return _worker.pack(job)


@dataclass(frozen=True, kw_only=True)
class WrittenShards:
    """The shards of all jobs, by name."""

    by_name: dict[str, PackedShard]
    kept: int
    """How many of them were there already, not counting shards without samples."""


def write_jobs(
    state: PackState, jobs: Sequence[ShardJob], packing: Packing, progress: OnProgress | None
) -> WrittenShards:
    """Write the shards that are not there yet. `progress` counts samples."""
    options = packing.options
    with ThreadPoolExecutor(options.workers) as pool:  # reads whole shards to compare hashes
        found = pool.map(lambda job: state.kept(job.name, job.fingerprint, options.skip_bad), jobs)
        packed = {shard.info.name: shard for shard in found if shard}
    kept = sum(shard.info.samples > 0 for shard in packed.values())
    to_do = [job for job in jobs if job.name not in packed]
    total = sum(len(job.samples) for job in jobs)
    done = total - sum(len(job.samples) for job in to_do)

    def report(count: int) -> None:
        if progress:
            progress(done + count, total)

    report(0)
    with closing(pack_shards(to_do, packing, state.out, report)) as shards:
        for shard in shards:
            state.record(shard)
            packed[shard.info.name] = shard
    return WrittenShards(by_name=packed, kept=kept)
