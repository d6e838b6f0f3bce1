"""Running statistics of batch norm that do not depend on the number of ranks.

Every micro-batch is normalised with its own moments. The running statistics move once per step, by the mean of the
moments of all micro-batches on all ranks, and only if the step is not skipped.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_seg.distributed.collectives import sum_over_ranks


class RunningStatistics:
    """Updates running means and variances in place of a model's batch-norm layers.

    Between steps the model's buffers hold the running statistics. Inside a step they hold the last micro-batch's
    moments: with momentum 1, batch norm leaves them there at no extra cost. Layers in evaluation mode (frozen) are
    left alone, so put the model into training mode first.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        """momentum: used for all layers. Encoders come with values such as 0.01, for epochs of a million images."""
        layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, _BatchNorm) and layer.training and layer.running_mean is not None
        ]
        self._momentum = momentum
        for layer in layers:
            layer.momentum = 1.0
        pairs = [(layer.running_mean, layer.running_var) for layer in layers]
        self._buffers = [buffer for pair in pairs for buffer in pair if buffer is not None]
        self._steps = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
        self._running = [buffer.clone() for buffer in self._buffers]
        self._running_steps = [steps.clone() for steps in self._steps]
        self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]

    @torch.no_grad()
    def begin_step(self) -> None:
        """Sets the running statistics aside; call it before the first micro-batch of a step."""
        if self._buffers:
            torch._foreach_copy_(self._running, self._buffers)
            torch._foreach_copy_(self._running_steps, self._steps)
            torch._foreach_zero_(self._sums)

    @torch.no_grad()
    def collect(self) -> None:
        """Adds the moments of the latest micro-batch; call it after the forward pass."""
        if self._buffers:
            torch._foreach_add_(self._sums, self._buffers)

    @torch.no_grad()
    def end_step(self, lanes: int, *, skipped: bool) -> None:
        """Moves the running statistics by the mean over all `lanes` micro-batches; restores them if `skipped`."""
        if not self._buffers:
            return
        if not skipped:
            flat = torch.cat([moments.flatten() for moments in self._sums])
            sum_over_ranks(flat).div_(lanes)
            start = 0
            for running in self._running:
                mean = flat[start : start + running.numel()].view_as(running)
                running.lerp_(mean, self._momentum)
                start += running.numel()
            torch._foreach_add_(self._running_steps, 1)
        torch._foreach_copy_(self._buffers, self._running)
        torch._foreach_copy_(self._steps, self._running_steps)
