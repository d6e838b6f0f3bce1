"""Data-parallel training: the whole model on every rank, gradients summed by torch's DistributedDataParallel."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dist_seg.distributed.world import World
from dist_seg.engine.ema import ExponentialMovingAverage, averaged
from dist_seg.engine.optim import load_optimizer_state, optimizer_state, set_learning_rate
from dist_seg.engine.strategies.loss_scale import LossScale
from dist_seg.engine.strategies.strategy import check_all_used
from dist_seg.tasks.task import Forward, ModelOutput


class DdpStrategy:
    """A `Strategy`. On a single rank the model is not wrapped."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        world: World,
        lanes: int,
        clip_norm: float,
        compile: bool,
        loss_scale: LossScale | None = None,
    ) -> None:
        """loss_scale: None for number formats that need none."""
        self.module = model
        self.loss_scale = loss_scale or LossScale.starting(dynamic=False)
        # Ranks meet only on their last micro-batch, so they may have different numbers of micro-batches before it.
        self.rounds = 0
        self._optimizer = optimizer
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # DDP divides the sum over ranks by their number; `Strategy` asks for a division by the number of lanes.
        self._weight = world.size / lanes
        self._clip_norm = clip_norm or math.inf
        self._ddp: DistributedDataParallel | None = None
        called: nn.Module = model
        if world.size > 1:
            # `batch_norm_statistics` takes care of the buffers.
            self._ddp = called = DistributedDataParallel(
                model, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self._forward: Forward = torch.compile(called) if compile else called

    def forward(self, *inputs: object, last: bool) -> ModelOutput:
        if self._ddp is not None:
            # The flag that DDP.no_sync() sets. It must also hold for the backward pass after this returns.
            self._ddp.require_backward_grad_sync = last
        return self._forward(*inputs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        torch.autograd.backward(loss * (self._weight * self.loss_scale.value))

    def step(self, lr_factor: float, loss: torch.Tensor) -> tuple[float, bool]:
        if self.loss_scale.value != 1:
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.loss_scale.value)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm, foreach=True)
        # The one point of a step where the host waits for the device.
        grad_norm, finite = torch.stack([norm.double(), (norm + loss).isfinite().double()]).tolist()
        skipped = not finite
        if not skipped:
            set_learning_rate(self._optimizer, lr_factor)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.loss_scale.update(skipped=skipped)
        return grad_norm, skipped

    def warm_up(self, loss_of: Callable[[Forward], torch.Tensor]) -> None:
        """Runs passes and discards their gradients; call it before any state is loaded.

        Raises ConfigError for trained parameters that the loss does not depend on, at any number of ranks.
        DDP rebuilds its buckets after the first step, and they decide the order in which gloo adds. Without this, the
        first step after a resume would differ in the last bit from the same step of an uninterrupted run.
        """
        for _ in range(2 if self._ddp is not None else 1):
            self.backward(loss_of(lambda *inputs: self.forward(*inputs, last=True)), last=True)
            check_all_used(self.module)
        self._optimizer.zero_grad(set_to_none=True)

    def held(self) -> dict[str, torch.Tensor]:
        return self.module.state_dict(keep_vars=True)

    def whole(self, parts: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        yield from parts.items()

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        return whole

    def evaluated(self, ema: ExponentialMovingAverage | None) -> AbstractContextManager[nn.Module]:
        return averaged(self.module, ema)

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from optimizer_state(self._optimizer, self.module).items()

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        load_optimizer_state(self._optimizer, self.module, state)
