"""Collectives that also work for a single process. Every rank must call them in the same order."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Self, TypeVar

import torch
import torch.distributed as dist

from dist_seg.distributed.position import HERE
from dist_seg.errors import EXIT_USER_ERROR, RunFailedError, UserError
from dist_seg.runtime.documents import convert

Result = TypeVar("Result")
_WHERE = "a message of the ranks"


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all ranks, in place. Any shape; the same dtype and device type on all ranks."""
    if dist.is_initialized():
        with HERE.collective():
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def gather_json(value: object) -> list[object]:
    """Every rank's JSON-ready value, by rank, on every rank. Nothing is pickled."""
    if not dist.is_initialized():
        return [json.loads(json.dumps(value))]
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    lengths[dist.get_rank()] = len(payload)
    sum_over_ranks(lengths)
    padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
    padded[: len(payload)] = payload
    gathered = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    with HERE.collective():
        dist.all_gather(gathered, padded)
    return [json.loads(bytes(part[:length].numpy())) for part, length in zip(gathered, lengths.tolist(), strict=True)]


def broadcast_json(value: object) -> object:
    """Rank 0's JSON-ready value, on every rank. It may be large, as each rank holds it only once."""
    text = json.dumps(value).encode() if rank() == 0 else b""
    if not dist.is_initialized():
        return json.loads(text)
    length = torch.tensor([len(text)])
    with HERE.collective():
        dist.broadcast(length, src=0)
        payload = bytearray(text or int(length))
        del text
        dist.broadcast(torch.frombuffer(payload, dtype=torch.uint8), src=0)
    return json.loads(payload)


def on_main(work: Callable[[], object]) -> object:
    """Does the work on rank 0 and returns its JSON-ready result on every rank; all ranks raise what it raises."""
    own: dict[str, object] = {}
    failure: Exception | None = None
    if rank() == 0:
        try:
            own = {"result": json.loads(json.dumps(work()))}
        except Exception as error:  # Not swallowed: raised below, once the other ranks know.
            failure = error
            own = {"failure": asdict(_Failure.of(error))}
    outcome = convert(broadcast_json(own), _Outcome, _WHERE)
    if outcome.failure is not None:
        raise _shared(failure, outcome.failure.text, is_users=outcome.failure.is_users)
    return outcome.result


def on_every_rank(work: Callable[[], Result]) -> Result:
    """Does the work on every rank; if some fail, all ranks raise the first failing rank's error. A collective."""
    failure: Exception | None = None
    results: list[Result] = []
    try:
        results.append(work())
    except Exception as error:  # Not swallowed: raised below, once every rank knows.
        failure = error
    raise_if_any(failure)
    return results[0]


def raise_if_any(failure: Exception | None) -> None:
    """All ranks raise the failure of the first rank that has one. A collective."""
    own = None if failure is None else asdict(_Failure.of(failure))
    for number, report in enumerate(convert(gather_json(own), list[_Failure | None], _WHERE)):
        if report is not None:
            where = f"rank {number}: " if world_size() > 1 else ""
            own_error = failure if number == rank() else None
            raise _shared(own_error, f"{where}{report.text}", is_users=report.is_users)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An error as it is told to the other ranks."""

    text: str
    is_users: bool

    @classmethod
    def of(cls, error: Exception) -> Self:
        is_users = isinstance(error, UserError) and error.exit_code == EXIT_USER_ERROR
        return cls(text=str(error) or type(error).__name__, is_users=is_users)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """The result of rank 0's work, or its failure."""

    result: object = None
    failure: _Failure | None = None


def _shared(failure: Exception | None, text: str, *, is_users: bool) -> Exception:
    """What this rank raises: its own error, with the traceback if it is a bug, or the failing rank's message."""
    if not is_users:
        return failure or RunFailedError(text)
    error = failure if isinstance(failure, UserError) else UserError(text)
    error.shared = True
    return error


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The ranks' (n, k) tensors, concatenated by rank along n, on every rank; n may differ."""
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    sum_over_ranks(counts)
    begin = int(counts[: rank()].sum())
    everything = torch.zeros((int(counts.sum()), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    everything[begin : begin + len(rows)] = rows
    return sum_over_ranks(everything)


def barrier() -> None:
    """Waits until every rank has called it."""
    if dist.is_initialized():
        # A reduction on the CPU, because dist.barrier() would occupy a GPU that may not be this rank's.
        sum_over_ranks(torch.zeros(1))
