"""Memory of CPU training: freed blocks stay with the process.

glibc gives every block above 32 MB back to the kernel when it is freed, and a training step on the CPU frees and takes
hundreds of them: the page faults then cost up to half of the step (4.4 to 6.4 images/s without them, EfficientNet-Lite0
at 288x384, four images, two threads). What the process has taken once it keeps; its peak stays the same.
"""

import ctypes
import os
import sys

import torch

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_LARGEST_INT = 2**31 - 1
_TOP_PAD_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, and torch to ask for huge pages. False where there is no glibc.

    To be called before the first tensor is made: torch reads its variable once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGEST_INT), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(option, value) == 1 for option, value in settings)


# torch's allocator for the CPU has no class of error of its own.
_OF_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_CPU_ALLOCATOR)
