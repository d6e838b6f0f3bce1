"""Measures work on a device without making the host wait for it."""

import time

import torch

Mark = float | torch.cuda.Event
"""A point in time: seconds of the host's clock, or an event in the GPU's queue of work."""


def mark(device: torch.device) -> Mark:
    """The current time; on a GPU, the time when the work queued so far will be done."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch is partly annotated
    event.record()
    return event


def seconds_between(begin: Mark, end: Mark) -> float:
    """Seconds between two marks of one device. On a GPU the host must already have waited for the work before `end`."""
    if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1000
    assert isinstance(begin, float) and isinstance(end, float)
    return end - begin
