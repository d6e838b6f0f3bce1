"""Optimiser, parameter groups and learning-rate schedule."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from dist_seg.config.schema import OptimConfig


def build_optimizer(config: OptimConfig, model: nn.Module) -> Optimizer:
    """The optimiser over the trained parameters of `model`, in groups that keep their learning rate as `base_lr`.

    Parameters under `encoder.` learn at `lr * encoder_lr_factor`. Weight decay spares biases and everything of fewer
    than two dimensions, which are the scales and shifts of normalisation layers.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr = config.lr * (config.encoder_lr_factor if name.startswith("encoder.") else 1.0)
            decay = 0.0 if parameter.ndim < 2 else config.weight_decay
            groups.setdefault((lr, decay), []).append(parameter)
    settings = [
        {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    match config.name:
        case "sgd":
            return SGD(settings, momentum=config.momentum, foreach=True)
        case "adamw":
            return AdamW(settings, betas=(config.beta1, config.beta2), foreach=True)


def lr_factor(config: OptimConfig, step: int, max_steps: int) -> float:
    """The factor of the learning rate at step `step`, counted from 0: a linear warm-up, then the schedule."""
    warmup = round(config.warmup_fraction * max_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, max_steps - warmup)
    match config.schedule:
        case "constant":
            return 1.0
        case "poly":
            factor = math.pow(1 - done, config.poly_power)
        case "cosine":
            factor = (1 + math.cos(math.pi * done)) / 2
        case "step":
            passed = sum(step >= milestone * max_steps for milestone in config.step_milestones)
            factor = math.pow(config.step_gamma, passed)
    return config.min_lr_factor + (1 - config.min_lr_factor) * factor


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Sets the learning rate of every group to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The moments as whole tensors, by `PARAMETER/MOMENT`; empty before the first step."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in model.named_parameters()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, torch.Tensor)
    }


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Loads moments from `optimizer_state`. Raises KeyError for a parameter that the model lacks."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, tensor in state.items():
        name, moment = key.rsplit("/", 1)
        parameter = parameters[name]
        # Adam counts its steps on the CPU; other moments are on the device of their parameter.
        device = torch.device("cpu") if moment == "step" else parameter.device
        # `foreach` kernels are only fast if moments have the memory layout of their parameter (channels_last).
        copy = tensor.to(device, copy=True) if moment == "step" else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][moment] = copy
