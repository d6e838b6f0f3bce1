"""Times of work on a device, taken without making the host wait for it."""

import time

import torch

Mark = float | torch.cuda.Event
"""A point in time: seconds of the host's clock, or an event in the GPU's queue of work."""


def mark(device: torch.device) -> Mark:
    """Now, or on a GPU: when the work that has been handed to it so far will be done."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch is partly annotated
    event.record()
    return event


def seconds_between(begin: Mark, end: Mark) -> float:
    """Both of one device; on a GPU the host must have waited for the work before `end`."""
    if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1000
    assert isinstance(begin, float) and isinstance(end, float)
    return end - begin
