"""Small networks that go wrong on rank 1 in a chosen step of the training, each in a way of its own."""

import ctypes
import time
from collections.abc import Callable

import torch
from torch import nn

from dist_seg.config.schema import ModelConfig
from dist_seg.distributed.collectives import rank
from dist_seg.distributed.position import HERE
from tests.distributed.training import SmallNet

FAULTY_RANK, FAULTY_STEP = 1, 4
_FOREVER_S = 3600


class FaultyNet(SmallNet):
    """With the names of SmallNet's parameters. The fault comes in the forward passes of one rank and step."""

    def __init__(self, num_classes: int, fault: Callable[[], object]) -> None:
        super().__init__(num_classes)
        self._fault = fault

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if HERE.phase == "forward" and HERE.step == FAULTY_STEP - 1 and rank() == FAULTY_RANK:
            self._fault()
        return super().forward(images)


class SlowNet(SmallNet):
    """Slow in every forward pass of one rank."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if rank() == FAULTY_RANK:
            time.sleep(0.1)
        return super().forward(images)


def _raise() -> None:
    raise ValueError("a planted bug")


def raising(config: ModelConfig, num_classes: int) -> nn.Module:
    return FaultyNet(num_classes, _raise)


def out_of_memory(config: ModelConfig, num_classes: int) -> nn.Module:
    return FaultyNet(num_classes, lambda: torch.empty(10**15))


def sleeping(config: ModelConfig, num_classes: int) -> nn.Module:
    return FaultyNet(num_classes, lambda: time.sleep(_FOREVER_S))


def hold_the_lock() -> None:
    """Waits for itself in C for ever, whatever signals come, and keeps the interpreter's lock."""
    mutex = ctypes.create_string_buffer(128)  # Zeros: a mutex that nobody has locked.
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)


def locking(config: ModelConfig, num_classes: int) -> nn.Module:
    return FaultyNet(num_classes, hold_the_lock)


def slow(config: ModelConfig, num_classes: int) -> nn.Module:
    return SlowNet(num_classes)
