"""DeepSpeed's JSON is derived; a file of the user's adds to it and must not contradict it."""

import json
from pathlib import Path

import pytest

from dist_seg.config.load import load_config
from dist_seg.config.schema import Config
from dist_seg.engine.strategies.deepspeed_settings import deepspeed_settings
from dist_seg.errors import ConfigError

BASE = [
    "engine.name=deepspeed",
    "train.global_batch=16",
    "train.micro_batch=2",
    "optim.clip_norm=0.5",
    "engine.zero_stage=3",
]


def config_of(tmp_path: Path, own: object = None, *overrides: str) -> Config:
    file = tmp_path / "own.json"
    if own is not None:
        file.write_text(json.dumps(own))
    return load_config([], [*BASE, *([f"engine.deepspeed_json={file}"] if own is not None else []), *overrides])


def test_stage_clipping_and_offload_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path, None, "engine.offload_optimizer=true", "engine.offload_param=true")
    settings = deepspeed_settings(config, world_size=2, lanes=8)
    assert settings["gradient_clipping"] == 0.5
    assert settings["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "cpu"},
    }
    assert "fp16" not in settings and "bf16" not in settings


def test_a_file_of_ones_own_is_merged(tmp_path: Path) -> None:
    own = {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 1000, "offload_optimizer": {"pin_memory": True}},
        "wall_clock_breakdown": True,
        "train_batch_size": "auto",
        "gradient_accumulation_steps": 4,
    }
    settings = deepspeed_settings(config_of(tmp_path, own, "engine.offload_optimizer=true"), world_size=2, lanes=8)
    assert settings["wall_clock_breakdown"] is True
    assert settings["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 1000,
        "offload_optimizer": {"pin_memory": True, "device": "cpu"},
    }


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"train_batch_size": 32}, ("32", "16", "train.global_batch")),
        ({"train_micro_batch_size_per_gpu": 4}, ("4", "2", "train.micro_batch")),
        ({"gradient_accumulation_steps": 3}, ("3", "4", "8 micro-batches on 2 ranks")),
        ({"gradient_clipping": 1.0}, ("1.0", "0.5", "optim.clip_norm")),
        ({"zero_optimization": {"stage": 2}}, ("2", "3", "engine.zero_stage")),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            ("nvme", "none", "engine.offload_optimizer"),
        ),
        ({"bf16": {"enabled": True}}, ("bf16", "train.precision")),
        ({"optimizer": {"type": "Lamb"}}, ("optimizer", "optim")),
    ],
)
def test_a_contradiction_names_both_values(tmp_path: Path, own: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        deepspeed_settings(config_of(tmp_path, own), world_size=2, lanes=8)
    assert all(word in str(raised.value) for word in ("own.json", *words)), raised.value


def test_what_is_switched_off_contradicts_nothing(tmp_path: Path) -> None:
    deepspeed_settings(
        config_of(tmp_path, {"fp16": {"enabled": False}, "bf16": {"enabled": "auto"}}), world_size=2, lanes=8
    )


@pytest.mark.parametrize(("content", "words"), [("{", "not valid JSON"), ("[]", "expected an object")])
def test_a_file_that_is_no_settings_is_named(tmp_path: Path, content: str, words: str) -> None:
    config = config_of(tmp_path, {})
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        deepspeed_settings(config, world_size=2, lanes=8)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["engine.name=ddp", "engine.offload_param=true"], "engine.offload_param=True: has no effect"),
        (["train.precision=fp64"], "DeepSpeed only shards single precision"),
        (["train.compile=true"], "train.compile=true"),
        (["engine.zero_stage=0", "engine.offload_optimizer=true"], "stage 0 shards nothing"),
        (["engine.zero_stage=2", "engine.offload_param=true"], "needs engine.zero_stage=3, not 2"),
    ],
)
def test_combinations_that_do_not_work_say_why(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config([], [*BASE, *overrides])
    assert words in str(raised.value)
