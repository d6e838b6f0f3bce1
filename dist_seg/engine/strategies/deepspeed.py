"""Training sharded by DeepSpeed's ZeRO (Rajbhandari et al. 2020): moments, gradients and weights spread over the ranks.

Weights and all sums over ranks are in single precision. The positions of a rank's shards come from DeepSpeed's internal
records, which differ by stage. They are not part of its public interface, so its version is pinned.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.optim import Optimizer

from dist_seg.config.schema import Config
from dist_seg.distributed.collectives import sum_over_ranks
from dist_seg.distributed.world import World, tell_deepspeed
from dist_seg.engine.ema import ExponentialMovingAverage, averaged
from dist_seg.engine.optim import load_optimizer_state, optimizer_state, set_learning_rate
from dist_seg.engine.strategies.deepspeed_settings import Settings, deepspeed_settings
from dist_seg.engine.strategies.loss_scale import LossScale
from dist_seg.errors import UserError
from dist_seg.runtime.precision import Precision, autocast, resolve_precision
from dist_seg.tasks.task import ModelOutput

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A piece of a parameter: its position in a flat tensor of this rank, and in the parameter."""

    flat: torch.Tensor
    flat_begin: int
    begin: int
    numel: int


class _Network(nn.Module):
    """The network under the run's autocast. DeepSpeed switches off any autocast that is active around it."""

    def __init__(self, module: nn.Module, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.module, self._precision, self._device = module, precision, device

    def forward(self, *inputs: object) -> ModelOutput:
        with autocast(self._precision, self._device):
            return cast(ModelOutput, self.module(*inputs))


class DeepSpeedStrategy:
    """A `Strategy`. Needs a process group even for a single rank."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        config: Config,
        world: World,
        lanes: int,
        blank_model: Callable[[], nn.Module],
    ) -> None:
        """model: the same whole model on every rank, with its weights loaded. blank_model: makes another of its kind,
        to evaluate sharded weights with. Raises UserError if DeepSpeed is missing.
        """
        precision = resolve_precision(config.train.precision, world.device)
        self.module = model
        self.loss_scale = LossScale.starting(dynamic=precision == "fp16")
        self._base = optimizer
        self._stage = config.engine.zero_stage
        # From stage 2 on, ranks meet on every micro-batch.
        self.rounds = -(-lanes // world.size) if self._stage >= 2 else 0
        self._weight = world.size / lanes
        self._clip_norm = config.optim.clip_norm or math.inf
        self._rank, self._device = world.rank, world.device
        self._blank_model = blank_model
        self._loss_is_finite = True
        # Only DeepSpeed's own step knows what prevents the update of a parameter.
        self._update, optimizer.step = optimizer.step, self._guarded_update  # type: ignore[assignment, method-assign]
        # Its flat tensors only support contiguous weights. Channels-last images still give channels-last features.
        model.to(memory_format=torch.contiguous_format)
        settings = deepspeed_settings(config, world_size=world.size, lanes=lanes)
        self._engine = _initialize(_Network(model, precision, world.device), optimizer, settings, world)
        self._zero = self._engine.optimizer

    def forward(self, *inputs: object, last: bool) -> ModelOutput:
        self._engine.set_gradient_accumulation_boundary(last)
        with torch.autocast(self._device.type, enabled=False):
            return cast(ModelOutput, self._engine(*inputs))

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        weighted = loss * self._weight
        if self._stage == 0:
            weighted = weighted * self.loss_scale.value
        elif self.loss_scale.dynamic:  # ZeRO multiplies by it here, and divides by it in its step.
            self._zero.override_loss_scale(self.loss_scale.value)
        self._engine.backward(weighted, scale_wrt_gas=False)

    def step(self, lr_factor: float, loss: torch.Tensor) -> tuple[float, bool]:
        set_learning_rate(self._base, lr_factor)
        self._loss_is_finite = math.isfinite(float(loss))
        grad_norm = self._step_unsharded() if self._stage == 0 else self._step_sharded()
        skipped = not (self._loss_is_finite and math.isfinite(grad_norm))
        self.loss_scale.update(skipped=skipped)
        return grad_norm, skipped

    def _step_unsharded(self) -> float:
        """Every rank has the whole gradient."""
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        if self.loss_scale.value != 1:
            torch._foreach_mul_([cast(torch.Tensor, p.grad) for p in parameters], 1 / self.loss_scale.value)
        norm = float(nn.utils.clip_grad_norm_(parameters, self._clip_norm, foreach=True))
        self._loss_is_finite = self._loss_is_finite and math.isfinite(norm)
        self._engine.step()
        return norm

    def _step_sharded(self) -> float:
        """ZeRO sums the squares over ranks, clips, and skips the step by itself if the norm is not finite."""
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        return norm if norm >= 0 else math.inf

    def _guarded_update(self, closure: Callable[[], float] | None = None) -> float | None:
        return self._update(closure) if self._loss_is_finite else None

    def held(self) -> dict[str, torch.Tensor]:
        state = self.module.state_dict(keep_vars=True)
        if self._stage < 3:
            return state
        return {name: cast(torch.Tensor, getattr(tensor, "ds_tensor", tensor)) for name, tensor in state.items()}

    def whole(self, parts: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        state = self.module.state_dict(keep_vars=True)
        for name, part in parts.items():
            if not hasattr(state[name], "ds_tensor"):
                yield name, part
                continue
            shape = state[name].ds_shape
            yield name, self._assembled(shape, _shard_of(state[name], part, self._rank))

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        parameter = self.module.state_dict(keep_vars=True)[name]
        if not hasattr(parameter, "ds_tensor"):
            return whole
        part = torch.zeros_like(parameter.ds_tensor)
        _copy_into(_shard_of(parameter, part, self._rank), whole)
        return part

    @contextmanager
    def evaluated(self, ema: ExponentialMovingAverage | None) -> Iterator[nn.Module]:
        """Under stage 3, a whole model beside the shards: ranks that predict different numbers of images or objects
        would otherwise wait forever for each other's shards."""
        if self._stage < 3:
            with averaged(self.module, ema) as module:
                yield module
            return
        model = self._blank_model()
        averages = {} if ema is None else ema.averages
        state = model.state_dict()
        for name, tensor in self.whole({**self.held(), **averages}):
            state[name].copy_(tensor)
        yield model

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._stage == 0:
            yield from optimizer_state(self._base, self.module).items()
            return
        moments = self._base.state
        if not moments:  # Before the first step.
            return
        names = list(next(iter(moments.values())))
        for name, parameter in self.module.named_parameters():
            piece = self._piece(parameter)
            for moment in names if parameter.requires_grad else ():
                if moment == "step":
                    yield f"{name}/{moment}", next(iter(moments.values()))[moment]
                    continue
                held = None if piece is None else _moved(piece, moments[piece.flat][moment])
                yield f"{name}/{moment}", self._assembled(_shape_of(parameter), held)

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if self._stage == 0:
            load_optimizer_state(self._base, self.module, state)
            return
        parameters = dict(self.module.named_parameters())
        self._base.state.clear()
        for key, tensor in state.items():
            name, moment = key.rsplit("/", 1)
            piece = self._piece(parameters[name])
            if piece is None:
                continue
            moments = self._base.state[piece.flat]
            if moment == "step":
                # Adam counts its steps on the CPU, once for all parts of a group on a rank.
                moments.setdefault(moment, tensor.to("cpu", copy=True))
                continue
            flat = moments.setdefault(moment, torch.zeros_like(piece.flat, requires_grad=False))
            _copy_into(_moved(piece, flat), tensor)

    def _piece(self, parameter: nn.Parameter) -> _Piece | None:
        """The piece of a parameter that this rank updates; None if it updates none."""
        if not parameter.requires_grad:
            return None
        if self._stage < 3:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's
            if mapping is None:
                return None
            return _Piece(
                flat=self._zero.single_partition_of_fp32_groups[mapping.param_group_index],
                flat_begin=mapping.hp_fragment_address.start,
                begin=mapping.lp_fragment_address.start,
                numel=mapping.lp_fragment_address.numel,
            )
        group, offset, numel = self._zero.grad_position[self._zero.get_param_id(parameter)]
        begin = numel * self._rank
        numel = min(numel, parameter.ds_numel - begin)  # type: ignore[attr-defined]  # DeepSpeed's; shards are padded
        flat = self._zero.fp32_partitioned_groups_flat[group]
        return None if numel <= 0 else _Piece(flat=flat, flat_begin=offset, begin=begin, numel=numel)

    def _assembled(self, shape: torch.Size, piece: _Piece | None) -> torch.Tensor:
        """The whole tensor from the pieces of all ranks, exact to the bit."""
        whole = torch.zeros(shape.numel(), dtype=torch.float32, device=self._device)
        if piece is not None:
            held = piece.flat.detach()[piece.flat_begin : piece.flat_begin + piece.numel]
            whole[piece.begin : piece.begin + piece.numel] = held.to(self._device)
        # As integers: a sum of floats would turn -0 into 0.
        return sum_over_ranks(whole.view(torch.int32)).view(torch.float32).view(shape)


def _shape_of(parameter: nn.Parameter) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _shard_of(parameter: torch.Tensor, part: torch.Tensor, rank: int) -> _Piece | None:
    """The piece of a stage-3 parameter that `part`, which has the shape of its shard, holds."""
    begin = part.numel() * rank
    numel = min(part.numel(), parameter.ds_numel - begin)  # type: ignore[attr-defined]  # DeepSpeed's; shards are padded
    return None if numel <= 0 else _Piece(flat=part, flat_begin=0, begin=begin, numel=numel)


def _moved(piece: _Piece, flat: torch.Tensor) -> _Piece:
    """The same position in another flat tensor."""
    return _Piece(flat=flat, flat_begin=piece.flat_begin, begin=piece.begin, numel=piece.numel)


@torch.no_grad()
def _copy_into(piece: _Piece | None, whole: torch.Tensor) -> None:
    if piece is not None:
        source = whole.reshape(-1)[piece.begin : piece.begin + piece.numel]
        piece.flat[piece.flat_begin : piece.flat_begin + piece.numel].copy_(source)


def _initialize(model: nn.Module, optimizer: Optimizer, settings: Settings, world: World) -> "DeepSpeedEngine":
    tell_deepspeed(world)
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            "engine.name=deepspeed, but DeepSpeed cannot be imported "
            f"({error}): pip install 'dist-seg[deepspeed]'; or train with engine.name=ddp"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # Its warnings are about choices made here.
    # DeepSpeed would compile this CPU kernel at the first start, which takes a compiler and minutes. Gloo needs none.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls torch's collectives by deprecated names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine
