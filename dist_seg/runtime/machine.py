"""Cores and memory of the machine. Imports nothing heavy."""

import os
import sys

try:
    import resource
except ModuleNotFoundError:  # not on Windows
    resource = None  # type: ignore[assignment]  # stands for its absence


def visible_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(num_processes: int) -> None:
    """Gives each of the processes to be started its share of the cores, unless OMP_NUM_THREADS is set already.

    Call it before torch is imported. torchrun would set one OpenMP thread per rank and warn about it at length.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, visible_cores() // num_processes)))


def peak_memory() -> int:
    """Peak memory of this process so far, in bytes; 0 if the system does not report it."""
    if resource is None:
        return 0
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
