"""Derives DeepSpeed's JSON from this project's configuration, the single source of truth.

A user's own file can add settings (bucket sizes, overlap, logging), and must agree on settings that both contain.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dist_seg.config.load import leaves
from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError
from dist_seg.runtime.plural import count_of

Settings = dict[str, object]
_AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """The value that a key of a user's file must have, and the setting that it follows from."""

    value: object
    ours: str


def deepspeed_settings(config: Config, *, world_size: int, lanes: int) -> Settings:
    """The configuration of DeepSpeed. Raises ConfigError for a user's file that contradicts the configuration.

    The trainer decides which micro-batch is the last one of a rank, as ranks may have different numbers of them, and
    weights them. So DeepSpeed is configured for one micro-batch per step. Weights are always single precision, and
    `train.precision` works by autocast, so neither `fp16` nor `bf16` is on.
    """
    engine, train = config.engine, config.train
    assert train.micro_batch is not None
    zero: Settings = {"stage": engine.zero_stage}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload_param:
        zero["offload_param"] = {"device": "cpu"}
    own = _read(engine.deepspeed_json) if engine.deepspeed_json is not None else {}
    _check(own, config, world_size=world_size, lanes=lanes)
    own_zero = cast(Settings, own.get("zero_optimization", {}))
    merged_zero = {**own_zero, **zero}
    for name in ("offload_optimizer", "offload_param"):
        if name in zero and isinstance(own_zero.get(name), dict):
            merged_zero[name] = {**cast(Settings, own_zero[name]), **cast(Settings, zero[name])}
    return {
        "steps_per_print": 2**31,  # The trainer's events report more.
        **{key: value for key, value in own.items() if value != _AUTO},
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": 1,
        "train_batch_size": train.micro_batch * world_size,
        "gradient_clipping": config.optim.clip_norm,
        "zero_optimization": merged_zero,
        # Use torch's optimisers, also on the CPU: DeepSpeed would compile its own at the first start.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _read(path: str) -> Settings:
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"engine.deepspeed_json: {path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"engine.deepspeed_json: {path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"engine.deepspeed_json: {path}: expected an object, found {type(content).__name__}")
    return content


def _check(own: Mapping[str, object], config: Config, *, world_size: int, lanes: int) -> None:
    problems = [
        f"  {key}: {value!r} there, {claim.value!r} from {claim.ours}"
        for key, value in leaves(own)
        if (claim := _claims(config, world_size, lanes).get(key)) is not None and value not in (_AUTO, claim.value)
    ]
    problems += [f"  {key}: {reason}" for key, reason in _REFUSED.items() if _is_on(own.get(key))]
    if problems:
        raise ConfigError(
            f"engine.deepspeed_json: {config.engine.deepspeed_json} contradicts the configuration:\n"
            + "\n".join(problems)
            + '\nLeave these out of the file, or write "auto", and set the configuration'
        )


_REFUSED = {
    "optimizer": "set the optimiser with optim.name",
    "scheduler": "set the learning rate with `optim`",
    "fp16": "set the number format with train.precision, whose fp16 keeps the weights in single precision",
    "bf16": "set the number format with train.precision, whose bf16 keeps the weights in single precision",
    "amp": "set the number format with train.precision",
    "torch_autocast": "set the number format with train.precision",
    "elasticity": "not needed: any number of ranks up to the number of micro-batches trains the same model",
    "data_efficiency": "dist-seg plans the data",
    "curriculum_learning": "dist-seg plans the data",
}


def _is_on(section: object) -> bool:
    """Whether a section is present and not switched off."""
    if isinstance(section, Mapping):
        return section.get("enabled", True) not in (False, _AUTO)
    return section is not None


def _claims(config: Config, world_size: int, lanes: int) -> Mapping[str, _Claim]:
    """The claims, by the dotted key of a user's file."""
    engine, train = config.engine, config.train
    device = {True: "cpu", False: "none"}
    claims = {
        "train_batch_size": _Claim(value=train.global_batch, ours="train.global_batch"),
        "train_micro_batch_size_per_gpu": _Claim(value=train.micro_batch, ours="train.micro_batch"),
        "gradient_clipping": _Claim(value=config.optim.clip_norm, ours="optim.clip_norm"),
        "zero_optimization.stage": _Claim(value=engine.zero_stage, ours="engine.zero_stage"),
        "zero_optimization.offload_optimizer.device": _Claim(
            value=device[engine.offload_optimizer], ours="engine.offload_optimizer"
        ),
        "zero_optimization.offload_param.device": _Claim(
            value=device[engine.offload_param], ours="engine.offload_param"
        ),
        "prescale_gradients": _Claim(value=False, ours="the loss, a mean over micro-batches"),
        "gradient_predivide_factor": _Claim(value=1.0, ours="the loss, a mean over micro-batches"),
    }
    steps = f"{count_of(lanes, 'micro-batch')} on {count_of(world_size, 'rank')}"
    each = lanes // world_size if lanes % world_size == 0 else "no whole number"
    return {**claims, "gradient_accumulation_steps": _Claim(value=each, ours=steps)}
