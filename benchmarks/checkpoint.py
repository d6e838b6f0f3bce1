"""What does a checkpoint cost the training, compared with a blocking `torch.save` of the same state?

    python benchmarks/checkpoint.py [--rounds 9] [--steps 10] [--folder DIR] [--json FILE]

Two ranks on two cores. The model is a DeepLabV3+ with 40 M parameters, trained with AdamW under DDP (gloo, one thread
per rank). A round has five blocks of the same steps, in rotating order: plain; plain again; a save as training does it,
at the start of the block; a blocking `torch.save` with fsync on rank 0 while rank 1 waits; and `dd` writing as many
bytes during the steps, past the page cache. The stall of the save is the time that the loop waits for the copy. Its
whole extra is how much longer its block takes than the mean of the plain ones, including the wait for a write that
outlasts the block. `bare_write` is what `dd` adds to its block: the part of the extra that is due to the disk, which
costs a virtual machine time on its cores. All are shares of the round's `torch.save`: median and spread over the
rounds. The first save, which also allocates the memory for the copies, is reported separately. `noise` is the
difference between a round's two plain blocks, in the same unit.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from dist_seg.checkpoint.state import CheckpointMeta, SnapshotBuffers, TrainingState
from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.checkpoint.writer import CheckpointWriter
from dist_seg.config.schema import ModelConfig, OptimConfig
from dist_seg.distributed.world import World
from dist_seg.engine.optim import build_optimizer
from dist_seg.engine.strategies.ddp import DdpStrategy
from dist_seg.engine.strategies.loss_scale import LossScale
from dist_seg.models.build import build_model
from dist_seg.runtime.memory import keep_freed_memory

_RANKS, _CLASSES, _SIDE, _BATCH = 2, 11, 32, 2
_KINDS = ("plain", "save", "plain again", "torch.save", "bare write")


@dataclass(frozen=True, kw_only=True)
class _Listener:
    """Fails the benchmark if the save fails."""

    def saved(self, step: int, path: str, stall_s: float, write_s: float) -> None:
        pass

    def failed(self, step: int, reason: str) -> None:
        raise RuntimeError(reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="steps per block (%(default)s)")
    parser.add_argument("--folder", type=Path, default=None, help="folder for the checkpoints (a temporary one)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()  # The variable that torch reads is inherited.
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        mp.spawn(_rank, args=(folder, options.rounds, options.steps), nprocs=_RANKS)
        figures = json.loads(Path(folder, "figures.json").read_text())
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


class _Bench:
    """One rank's model, and the blocks that it runs together with the other rank."""

    def __init__(self, rank: int, folder: Path, steps: int) -> None:
        self._is_main, self._folder, self._steps = rank == 0, folder, steps
        torch.manual_seed(0)
        config = ModelConfig(name="deeplabv3plus", encoder="resnet50", weights=None, norm="batch", aspp_channels=1040)
        self.model = build_model(config, _CLASSES).to(memory_format=torch.channels_last).train()
        world = World(rank=rank, size=_RANKS, local_rank=rank, local_size=_RANKS)
        self._strategy = DdpStrategy(
            self.model,
            build_optimizer(OptimConfig(), self.model),
            world=world,
            lanes=_RANKS,
            clip_norm=0.0,
            compile=False,
            loss_scale=LossScale.starting(dynamic=False),
        )
        self._images = torch.randn(_BATCH, 3, _SIDE, _SIDE).to(memory_format=torch.channels_last)
        self._targets = torch.randint(0, _CLASSES, (_BATCH, _SIDE, _SIDE))
        retention = Retention(keep_last=1, keep_best=False, keep_every_steps=0)
        self._writer = CheckpointWriter(CheckpointStore(folder / "checkpoints"), retention, _Listener())
        self._number = 0

    def block(self, kind: str) -> tuple[float, float]:
        """Seconds of a block, and the seconds for which its save stalled the loop."""
        dist.barrier()
        begin, stall_s = time.perf_counter(), 0.0
        if kind == "save" and self._is_main:
            self._number += 1
            stall_s = self._writer.save(self._state)
        if kind == "torch.save":
            if self._is_main:
                stall_s = _seconds(self._save_blocking)
            dist.barrier()
        copying = _bare_write(self._folder) if kind == "bare write" and self._is_main else None
        for _ in range(self._steps):
            logits = self._strategy.forward(self._images, last=True)
            assert isinstance(logits, torch.Tensor)
            loss = functional.cross_entropy(logits, self._targets)
            self._strategy.backward(loss, last=True)
            self._strategy.step(1.0, loss.detach())
        if self._is_main:
            self._writer.wait()
        if copying is not None and copying.wait():
            raise RuntimeError("dd has failed")
        dist.barrier()
        return time.perf_counter() - begin, stall_s

    def close(self) -> None:
        self._writer.close()

    def _state(self, buffers: SnapshotBuffers) -> TrainingState:
        return TrainingState(
            meta=CheckpointMeta(step=self._number, config={}, manifest={}, world_size=_RANKS),
            model=buffers.snapshot("model", self.model.state_dict().items()),
            ema={},
            optimizer=buffers.snapshot("optimizer", self._strategy.optimizer_state()),
        )

    def _save_blocking(self) -> None:
        with (self._folder / "blocking.pt").open("wb") as file:
            torch.save({"model": self.model.state_dict(), "optimizer": dict(self._strategy.optimizer_state())}, file)
            file.flush()
            os.fsync(file.fileno())


def _bare_write(folder: Path) -> "subprocess.Popen[bytes]":
    """A process that writes as many bytes as the blocking save wrote."""
    block = 4 * 2**20
    count = (folder / "blocking.pt").stat().st_size // block
    options = [f"of={folder / 'bare'}", f"bs={block}", f"count={count}", "oflag=direct", "conv=fsync", "status=none"]
    return subprocess.Popen(["dd", "if=/dev/zero", *options])


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _rank(rank: int, folder: str, rounds: int, steps: int) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=_RANKS)
    bench = _Bench(rank, Path(folder), steps)
    bench.block("plain"), bench.block("torch.save")  # Warm up.
    first_stall_s = bench.block("save")[1]
    table: list[dict[str, tuple[float, float]]] = []
    for number in range(rounds):
        order = [_KINDS[(number + place) % len(_KINDS)] for place in range(len(_KINDS))]
        table.append({kind: bench.block(kind) for kind in order})
        if rank == 0:
            print(json.dumps({kind: [round(s, 3) for s in seconds] for kind, seconds in table[-1].items()}), flush=True)
    bench.close()
    if rank == 0:
        Path(folder, "figures.json").write_text(json.dumps(_figures(bench, table, first_stall_s)))
    dist.destroy_process_group()


def _figures(bench: _Bench, table: list[dict[str, tuple[float, float]]], first_stall_s: float) -> dict[str, object]:
    blocking = [row["torch.save"][1] for row in table]
    plain = [(row["plain"][0] + row["plain again"][0]) / 2 for row in table]

    def shares(seconds: list[float]) -> dict[str, float]:
        """Times as shares of the round's `torch.save`."""
        return _spread([some / whole for some, whole in zip(seconds, blocking, strict=True)])

    def beyond_plain(kind: str) -> list[float]:
        return [row[kind][0] - base for row, base in zip(table, plain, strict=True)]

    return {
        "million_parameters": sum(parameter.numel() for parameter in bench.model.parameters()) / 1e6,
        "rounds": len(table),
        "torch_save_s": _spread(blocking),
        "plain_block_s": _spread(plain),
        "first_stall_ratio": first_stall_s / statistics.median(blocking),
        "stall_ratio": shares([row["save"][1] for row in table]),
        "extra_ratio": shares(beyond_plain("save")),
        "bare_write_ratio": shares(beyond_plain("bare write")),
        "noise_ratio": shares([row["plain"][0] - row["plain again"][0] for row in table]),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
