"""In which floating-point format a run computes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp64"]


def resolve_precision(wanted: Literal["auto", "fp32", "bf16", "fp64"], device: torch.device) -> Precision:
    """`auto` is bf16 on a GPU that has it, fp32 elsewhere: on most CPUs bf16 is far slower than fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context of a forward pass: bf16 autocast, or nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def dtype_of(precision: Precision) -> torch.dtype:
    """Of weights and inputs; under bf16 autocast both stay float32."""
    return torch.float64 if precision == "fp64" else torch.float32
