"""The convolution blocks that decoders are built from, and a fast backward pass for dilated depthwise convolutions.

On the CPU oneDNN has no fast kernel for the gradient of a dilated depthwise convolution with respect to its input: it
takes 24 ms, the forward pass 2.6 ms (4x1152x18x24, 5x5, dilation 2, one thread). At stride 1 that gradient is itself
such a convolution with the kernel rotated by 180 degrees, which takes as long as the forward pass.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from dist_seg.models.norm import NormKind, make_norm


def conv_norm_relu(in_channels: int, out_channels: int, norm: NormKind) -> nn.Sequential:
    """1x1 convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), make_norm(norm, out_channels), nn.ReLU(inplace=True)
    )


def separable_conv(in_channels: int, out_channels: int, norm: NormKind, dilation: int = 1) -> nn.Sequential:
    """3x3 depthwise convolution, 1x1 convolution, normalisation, ReLU; the map keeps its size."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    return nn.Sequential(depthwise, *conv_norm_relu(in_channels, out_channels, norm))


class _DilatedDepthwise(torch.autograd.Function):
    """images (B, C, H, W), weight (C, 1, k, k) with k odd; padded so that the map keeps its size."""

    @staticmethod
    def forward(ctx: FunctionCtx, images: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.dilation = dilation  # type: ignore[attr-defined]  # the context takes any attribute
        return _convolve(images, weight, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        images, weight = ctx.saved_tensors  # type: ignore[attr-defined]  # set by save_for_backward
        dilation: int = ctx.dilation  # type: ignore[attr-defined]  # set in forward
        needs_images, needs_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]  # set by torch
        to_images = _convolve(gradient, weight.flip(2, 3), dilation) if needs_images else None
        to_weight = None
        if needs_weight:
            padding, dilations = [_same_padding(weight, dilation)] * 2, [dilation] * 2
            _, to_weight, _ = torch.ops.aten.convolution_backward(
                gradient,
                images,
                weight,
                None,
                [1, 1],
                padding,
                dilations,
                False,
                [0, 0],
                len(weight),
                [False, True, False],
            )
        return to_images, to_weight, None


class DilatedDepthwiseConv2d(nn.Conv2d):
    """Takes the place of an `nn.Conv2d` that `is_dilated_depthwise`, and shares its parameters."""

    def __init__(self, conv: nn.Conv2d) -> None:
        channels, dilation = conv.in_channels, conv.dilation[0]
        padding = _same_padding(conv.weight, dilation)
        super().__init__(
            channels, channels, conv.kernel_size[0], 1, padding, dilation, groups=channels, bias=False, device="meta"
        )
        self.weight = conv.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            convolved: torch.Tensor = _DilatedDepthwise.apply(*_autocast(input, self.weight), self.dilation[0])
            return convolved
        return super().forward(input)


def is_dilated_depthwise(module: nn.Module) -> bool:
    """Whether the module is a dilated depthwise convolution at stride 1, without bias, that keeps the size."""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and module.bias is None
        and module.padding_mode == "zeros"
        and module.stride == (1, 1)
        and module.kernel_size[0] == module.kernel_size[1]
        and module.kernel_size[0] % 2 == 1
        and module.dilation[0] == module.dilation[1] > 1
        and module.padding == (_same_padding(module.weight, module.dilation[0]),) * 2
    )


def speed_up_dilated_depthwise(module: nn.Module) -> None:
    """Replaces the dilated depthwise convolutions inside `module`, in place; names and parameters are kept."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if is_dilated_depthwise(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, DilatedDepthwiseConv2d(child))


def _autocast(images: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in autocast's precision: it does not reach the backward pass, which needs them in the same one."""
    if not torch.is_autocast_enabled("cpu") or torch.float64 in (images.dtype, weight.dtype):
        return images, weight
    dtype = torch.get_autocast_dtype("cpu")
    return images.to(dtype), weight.to(dtype)


def _same_padding(weight: torch.Tensor, dilation: int) -> int:
    return dilation * (weight.shape[-1] - 1) // 2


def _convolve(images: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
    padding = _same_padding(weight, dilation)
    return F.conv2d(images, weight, None, 1, padding, dilation, groups=len(weight))
