"""In which floating-point format a run computes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16", "fp64"]


def resolve_precision(wanted: Literal["auto", "fp32", "bf16", "fp16", "fp64"], device: torch.device) -> Precision:
    """`auto` is bf16 on a GPU that has it, fp32 elsewhere: on most CPUs bf16 is far slower than fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context of a forward pass: autocast to a format of 16 bits, or nothing."""
    match precision:
        case "bf16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        case "fp16":
            return torch.autocast(device.type, dtype=torch.float16)
    return nullcontext()


def dtype_of(precision: Precision) -> torch.dtype:
    """Of weights and inputs; under autocast both stay float32."""
    return torch.float64 if precision == "fp64" else torch.float32
