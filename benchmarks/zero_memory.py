"""What does a rank hold for training under ZeRO, stages 0 to 3 at 1, 2 and 4 ranks, compared with `--dry-run`?

    python -m benchmarks.zero_memory [--stages 0 1 2 3] [--ranks 1 2 4] [--micro-batches 1] [--json FILE]

The model is 32 linear layers of 1024x1024 without bias (128 MiB of weights), on a batch of one row, so activations are
negligible. The optimiser is AdamW; DeepSpeed runs over gloo, with separate processes for every combination. The
benchmark counts the storages of live tensors, each once, that did not exist before the model was made, at three points
of the last step:

- backward: after a micro-batch's backward pass, when the gradients live where it leaves them; the largest of a step;
- update: inside the step, just before AdamW updates the weights;
- step: after the step, when weights, masters, moments and the gradients that DeepSpeed keeps remain.

The formula of `--dry-run` (`dist_seg/capacity/estimate.py`) counts weights, gradients, masters and moments together, so
it is compared with the largest of the three. With their defaults of 500 M elements, DeepSpeed's buckets would outweigh
the model; here they have 1 M (4 MiB), and what remains of them is part of the measured figures. RSS is the growth of
the process after the step and at its peak during the last step: it includes AdamW's intermediate results, which no
tensor count sees. The figures are those of the rank that holds most.
"""

import argparse
import ctypes
import gc
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from dist_seg.capacity.estimate import state_bytes
from dist_seg.config.load import load_config
from dist_seg.config.schema import Config
from dist_seg.distributed.world import World
from dist_seg.engine.strategies.deepspeed import DeepSpeedStrategy

_LAYERS, _SIDE = 32, 1024
_STEPS = 3
_MIB = 2**20
_BUCKET = 2**20
_BUCKETS = {
    "reduce_bucket_size": _BUCKET,
    "allgather_bucket_size": _BUCKET,
    "stage3_prefetch_bucket_size": _BUCKET,
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": _BUCKET,
    "stage3_max_reuse_distance": 0,
}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """MiB on the rank that holds most."""

    stage: int
    ranks: int
    backward: float
    update: float
    step: float
    rss_step: float
    rss_peak: float
    formula: float

    @property
    def ratio(self) -> float:
        return max(self.backward, self.update, self.step) / self.formula


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--micro-batches", type=int, default=1, help="micro-batches per rank and step")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    print("MiB    stage  ranks  backward  update    step  largest  formula  ratio   RSS: step    peak", flush=True)
    rows: list[_Row] = []
    for stage in options.stages:
        for ranks in options.ranks:
            rows.append(row := _measured(stage, ranks, options.micro_batches))
            print(
                f"{stage:12d} {ranks:6d} {row.backward:9.1f} {row.update:7.1f} {row.step:7.1f} "
                f"{row.ratio * row.formula:8.1f} {row.formula:8.1f} {row.ratio:6.3f} "
                f"{row.rss_step:11.1f} {row.rss_peak:7.1f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1) + "\n")


def _measured(stage: int, ranks: int, micro_batches: int) -> _Row:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(folder, stage, ranks, micro_batches), nprocs=ranks)
        of_rank = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    config = _config(Path("buckets.json"), stage, ranks * micro_batches)
    formula = state_bytes(config.engine, config.optim.name, 4 * _LAYERS * _SIDE**2, ranks, ema=False)
    most = {name: max(float(figures[name]) for figures in of_rank) for name in of_rank[0]}
    return _Row(stage=stage, ranks=ranks, formula=formula.device / _MIB, **most)


def _config(buckets: Path, stage: int, lanes: int) -> Config:
    engine = ["engine.name=deepspeed", f"engine.zero_stage={stage}", f"engine.deepspeed_json={buckets}"]
    return load_config([], [*engine, f"train.global_batch={lanes}", "train.micro_batch=1", "optim.name=adamw"])


class _Watched(torch.optim.AdamW):
    """Takes a measurement before each update."""

    def __init__(self, parameters: list[nn.Parameter], look: Callable[[], None]) -> None:
        super().__init__([{"params": parameters, "base_lr": 1e-4}])  # As in `build_optimizer`.
        self._look = look

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # No closure is ever given.
        self._look()
        super().step()


def _rank(rank: int, folder: str, stage: int, ranks: int, micro_batches: int) -> None:
    torch.set_num_threads(1)
    _give_freed_memory_back()
    buckets = Path(folder, f"buckets-{rank}.json")
    buckets.write_text(json.dumps({"zero_optimization": _BUCKETS}))
    world = World(rank=rank, size=ranks, local_rank=rank, local_size=ranks)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    config = _config(buckets, stage, ranks * micro_batches)
    # A small model first, so that libraries are loaded and gloo's connections are open.
    _train(config, world, layers=1, side=8, micro_batches=micro_batches)
    figures = _train(config, world, layers=_LAYERS, side=_SIDE, micro_batches=micro_batches)
    Path(folder, f"{rank}.json").write_text(json.dumps(figures))
    dist.destroy_process_group()


def _train(config: Config, world: World, *, layers: int, side: int, micro_batches: int) -> dict[str, float]:
    gc.collect()
    before, rss_before = _storages(), _status("VmRSS")
    figures: dict[str, float] = {}

    def held() -> float:
        return sum(size for place, size in _storages().items() if place not in before) / _MIB

    def look() -> None:
        figures["update"] = held()

    lanes = world.size * micro_batches
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(layers)))
    strategy = DeepSpeedStrategy(
        model,
        _Watched(list(model.parameters()), look),
        config=config,
        world=world,
        lanes=lanes,
        blank_model=lambda: nn.Sequential(),
    )
    inputs = torch.randn(1, side)
    for _ in range(_STEPS):
        Path("/proc/self/clear_refs").write_text("5")  # Resets the peak of RSS.
        figures["backward"] = 0.0
        for number in range(micro_batches):
            last = number == micro_batches - 1
            outputs = strategy.forward(inputs, last=last)
            assert isinstance(outputs, torch.Tensor)
            loss = outputs.square().mean()
            strategy.backward(loss, last=last)
            loss = loss.detach()
            figures["backward"] = max(figures["backward"], held())
        strategy.step(1.0, loss)
        figures["step"] = held()
    figures["rss_step"] = (_status("VmRSS") - rss_before) / _MIB
    figures["rss_peak"] = (_status("VmHWM") - rss_before) / _MIB
    return figures


def _storages() -> dict[int, int]:
    """Bytes of the storages of all live tensors, by their device."""
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    # A gradient becomes a Python object only once it is asked for.
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}


def _give_freed_memory_back() -> None:
    """Returns freed memory to the system. Otherwise glibc keeps it, and RSS does not show what is in use."""
    m_mmap_threshold = -3
    ctypes.CDLL(None).mallopt(m_mmap_threshold, _MIB)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024


if __name__ == "__main__":
    main()
