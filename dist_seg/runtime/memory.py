"""Memory settings for training on the CPU: the process keeps blocks that it has freed.

glibc returns every freed block above 32 MB to the kernel, and a training step on the CPU frees and allocates hundreds
of them. The page faults then cost up to half of the step (4.4 images/s with them, 6.4 without; EfficientNet-Lite0 at
288x384, four images, two threads). The process keeps all memory that it once used; its peak does not change.
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
    """Makes glibc keep freed memory, and torch ask for huge pages. Returns False if there is no glibc.

    Call it before the first tensor is created: torch reads its variable once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGEST_INT), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(option, value) == 1 for option, value in settings)


# torch's CPU allocator has no exception class of its own.
_CPU_ALLOCATOR_ERRORS = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATOR_ERRORS)
