"""What the machine offers; imports nothing heavy."""

import logging
import os
import sys
import threading

try:
    import resource
except ModuleNotFoundError:  # not on Windows
    resource = None  # type: ignore[assignment]  # what its absence is known by

_log = logging.getLogger(__name__)
_LOW_PRIORITY = 10
"""A tenth of the share of a thread with the usual priority, where both want the same core."""


def visible_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far; 0 where the system does not tell."""
    if resource is None:
        return 0
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def yield_to_others() -> None:
    """Lowers the priority of the calling thread for the rest of its life: it takes what others leave of the cores.

    Linux alone gives threads priorities of their own; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
    except OSError as error:  # A container may forbid it; the thread does its work all the same.
        _log.info("the priority of a background thread could not be lowered: %s", error)
