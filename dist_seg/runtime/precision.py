"""The floating-point format of a run."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from dist_seg.config.schema import Config

Precision = Literal["fp32", "bf16", "fp16", "fp64"]


def resolve_precision(wanted: Literal["auto", "fp32", "bf16", "fp16", "fp64"], device: torch.device) -> Precision:
    """`auto` is bf16 on a GPU that supports it and fp32 elsewhere: on most CPUs bf16 is far slower than fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context for a forward pass: autocast to a 16-bit format, or nothing."""
    match precision:
        case "bf16":
            return torch.autocast(device.type, dtype=torch.bfloat16)
        case "fp16":
            return torch.autocast(device.type, dtype=torch.float16)
    return nullcontext()


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of weights and inputs. Under autocast both stay float32."""
    return torch.float64 if precision == "fp64" else torch.float32


def make_deterministic(config: Config, device: torch.device) -> None:
    """Restricts torch to bit-exact kernels if the configuration asks for it; by default on the CPU, not on a GPU."""
    wanted = config.train.deterministic
    if wanted is None:
        wanted = device.type == "cpu"
    if wanted and device.type == "cuda":
        # cuBLAS reads it when it first starts; without it torch refuses matrix products.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    # Only kernels need to be deterministic; filling fresh memory as well would cost time for nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module's class
    torch.backends.cudnn.benchmark = not wanted


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 if it is in half precision; losses and boxes need more digits than bfloat16."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
