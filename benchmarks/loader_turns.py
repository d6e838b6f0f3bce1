"""What the loader benchmarks share: the peers' jitter, the rate of a loader, and loaders that take turns.

Loaders take turns so that other work on the machine affects all of them. A ratio is the median over the turns. Beside
each rate stands the cost of a sample in milliseconds of one core, over all threads and workers, which other work
changes little.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from dist_seg.data.loading.batch import Batch
from dist_seg.runtime.rng import generator

PREFETCH = 4
JITTER = 0.3

Batches = Generator[Batch, None, None]


class Result(TypedDict):
    """One loader with one recipe, over the turns."""

    samples_per_s: list[float]
    core_ms_a_sample: list[float]
    dali_ratio_median: float
    dali_ratio_min: float
    dali_ratio_max: float


def as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def jittered(image: Tensor, key: str, hue_deg: float) -> Tensor:
    """(3, H, W) uint8 with torchvision's jitter: one pass for each `adjust_*`, of which hue is the most expensive."""
    brightness, contrast, saturation, hue = 2 * generator("jitter", key).random(4) - 1
    image = functional.adjust_brightness(image, 1 + JITTER * brightness)
    image = functional.adjust_contrast(image, 1 + JITTER * contrast)
    image = functional.adjust_saturation(image, 1 + JITTER * saturation)
    return functional.adjust_hue(image, hue_deg / 360 * hue) if hue_deg else image


def rate(batches: Batches, seconds: float) -> tuple[float, float]:
    """Samples per second of one warmed-up loader, and milliseconds of one core that each sample costs."""
    try:
        for _ in range(3 * PREFETCH):  # start the workers and use up what they prefetched
            next(batches)
        start, core_start, count = time.perf_counter(), _core_seconds(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            count += len(next(batches).images)
        return count / elapsed, 1e3 * (_core_seconds() - core_start) / count
    finally:
        batches.close()


def _core_seconds() -> float:
    """CPU seconds of this process and its workers so far."""
    ticks = 0
    for worker in multiprocessing.active_children():
        # After the name in brackets, which may hold spaces: user and system time are the 12th and 13th field.
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def take_turns(loaders: Mapping[str, Callable[[], Batches]], *, pairs: int, seconds: float) -> dict[str, Result]:
    """Samples per second of every loader, printed turn by turn, and the ratio of `dali` to it within each turn."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for turn in range(pairs):
        for name in loaders if turn % 2 else reversed(list(loaders)):
            measured[name].append(rate(loaders[name](), seconds))
    results: dict[str, Result] = {}
    print(
        f"{'loader':<18} {'samples/s':>10} {'range':>16} {'core ms each':>14} {'DALI is faster by':>18} {'range':>14}"
    )
    for name in loaders:
        ratios = [dali / other for (dali, _), (other, _) in zip(measured["dali"], measured[name], strict=True)]
        rates, core_ms = ([of_turn[i] for of_turn in measured[name]] for i in (0, 1))
        results[name] = Result(
            samples_per_s=rates,
            core_ms_a_sample=core_ms,
            dali_ratio_median=statistics.median(ratios),
            dali_ratio_min=min(ratios),
            dali_ratio_max=max(ratios),
        )
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        factors = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{name:<18} {statistics.median(rates):>10.0f} {spread:>16} {statistics.median(core_ms):>14.1f} "
            f"{statistics.median(ratios):>18.2f} {factors:>14}"
        )
    return results


def ratio(result: Result) -> str:
    """How many times faster DALI is, with the spread over the turns."""
    low, high = result["dali_ratio_min"], result["dali_ratio_max"]
    return f"{result['dali_ratio_median']:.2f} times as fast ({low:.2f} to {high:.2f})"
