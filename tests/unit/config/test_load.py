from pathlib import Path

import pytest

from dist_seg.config.load import config_from_tree, differences, load_config, to_tree, to_yaml
from dist_seg.config.schema import Config
from dist_seg.errors import ConfigError


def error_of(*overrides: str, files: tuple[Path, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(files, overrides)
    return str(caught.value)


def test_no_input_gives_the_defaults() -> None:
    assert load_config([]) == Config()


def test_later_sources_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("optim: {lr: 0.1, name: sgd}\ntrain: {seed: 3}\n")
    second.write_text("optim: {lr: 2e-2}\n")
    config = load_config([first, second], ["train.seed=5"])
    assert (config.optim.lr, config.optim.name, config.train.seed) == (0.02, "sgd", 5)


def test_text_that_looks_like_a_number_stays_text() -> None:
    for text in ("2024", "no", "007", "12e5", "2024-01-01"):
        assert load_config([], [f"run.dir={text}"]).run.dir == text
    assert load_config([], ["run.dir=null"]).run.dir is None


def test_quoted_numbers_are_numbers_where_the_field_is_one() -> None:
    config = load_config([], ["optim.lr='0.1'", "train.seed='3'", "data.mean=['1', 2]", "train.compile='true'"])
    assert (config.optim.lr, config.train.seed, config.data.mean, config.train.compile) == (0.1, 3, (1.0, 2.0), True)


def test_whole_numbers_become_floats_where_the_field_is_one() -> None:
    config = load_config([], ["optim.lr=1", "data.value_low=3", "data.value_high=[1, 2]"])
    found = (config.optim.lr, config.data.value_low, config.data.value_high)
    assert (found, [type(value) for value in found]) == ((1.0, 3.0, (1.0, 2.0)), [float, float, tuple])
    assert isinstance(config.data.value_high, tuple)
    assert {type(value) for value in config.data.value_high} == {float}


def test_members_of_a_mix_are_read_as_settings_are() -> None:
    members = "[{name: a, shards: b, weight: '2', class_map: {7: null, car: 9}}, {name: c, shards: d, weight: 1}]"
    first, second = load_config([], [f"data.mix={members}"]).data.mix
    assert (first.weight, first.class_map, second.weight) == (2.0, {"7": None, "car": "9"}, 1.0)


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = load_config([], ["data.mean=[0.1, 0.2, 0.3]", "model.aspp_dilations=[1, 2]", "train.max_steps=7"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config([file]) == config
    assert config_from_tree(to_tree(config), "checkpoint") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=3", "unknown key optim.lrr; did you mean optim.lr?"),
        ("trian.seed=1", "unknown key trian; did you mean train?"),
        ("max_steps=3", "unknown key max_steps; did you mean train.max_steps?"),
        ("optim.lr=fast", "optim.lr='fast': expected float"),
        ("train.max_steps=1.5", "train.max_steps=1.5: expected int"),
        ("optim.name=adm", "optim.name='adm': expected Literal['sgd', 'adamw']"),
        (
            "data.mean=[1, x]",
            "data.mean=[1, 'x']: expected list of float or null (Expected `float`, got `str` - at `$[1]`)",
        ),
        ("optim.lr='abc: ['", "optim.lr='abc: [': expected float"),
        (f"optim.lr={'9' * 400}", ": expected float"),
        ("checkpoint.interval_steps=often", "='often': expected int or Literal['auto'] or null"),
        ("train.seed=1.0", "train.seed=1.0: expected int"),
        ("train.seed=true", "train.seed=True: expected int"),
        ("train.compile=1", "train.compile=1: expected bool"),
        ("engine.zero_stage=true", "engine.zero_stage=True: expected Literal[0, 1, 2, 3]"),
        ("model.output_stride=8.0", "model.output_stride=8.0: expected Literal[8, 16]"),
        ("eval.metrics=[3]", "eval.metrics=[3]: expected list of str"),
        ("data.mix=3", "the command line: data.mix=3: expected list of mapping"),
        ("data.mix=[{name: a}]", "(Object missing required field `shards` - at `$[0]`)"),
        (
            "data.mix=[{name: a, shard: b}]",
            "the command line: unknown key data.mix.shard; did you mean data.mix.shards?",
        ),
        ("data.mix=[{name: a, shards: b, class_map: {no: c}}]", "data.mix.class_map: `yes`, `no`, `on`"),
        ("optim=3", "optim is a section"),
        ("nonsense", "neither a YAML file nor an override"),
        ("optim.lr=-1", "optim.lr=-1.0: must be greater than 0"),
        ("optim.lr=null", "the command line: optim.lr is empty (null), but needs a value"),
        ("train.seed=", "the command line: train.seed is empty (null)"),
        ("augment.min_visible=null", "remove it to use the default, 0.2"),
        ("checkpoint.resume=", "checkpoint.resume is empty (null)"),
        ("augment.scale_min=null", "augment.scale_min is empty (null)"),
        ("task=null", "task is empty (null)"),
        ("optim.poly_power=1e999", "the command line: optim.poly_power=inf: must be finite"),
        ("augment.scale_max=.inf", "augment.scale_max=inf: must be finite"),
        ("train.timeout_s=.nan", "train.timeout_s=nan: must be finite"),
        ("data.mean=[.nan, 0, 0]", "data.mean=[nan, 0.0, 0.0]: must be finite"),
        ("augment.scale_min=3", "augment.scale_max=2.0: must not be less than augment.scale_min=3.0"),
    ],
)
def test_mistake_is_named_with_key_and_remedy(override: str, message: str) -> None:
    assert message in error_of(override)


def test_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {max_step: 3}\n")
    assert error_of(files=(file,)) == f"{file}: unknown key train.max_step; did you mean train.max_steps?"


def test_key_without_a_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  lr:\n")
    assert error_of(files=(file,)).startswith(f"{file}: optim.lr is empty")


def test_null_is_taken_where_it_means_something() -> None:
    config = load_config([], ["train.max_steps=null", "model.weights=null", "data.input_scale="])
    assert (config.train.max_steps, config.model.weights, config.data.input_scale) == (None, None, None)


@pytest.mark.parametrize(
    "text", ["- 1\n- 2\n", "train: [", "train: {seed: 1, seed: 2}", "a: !!python/object:os.system x"]
)
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert "bad.yaml" in error_of(files=(file,))


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such configuration file" in error_of(files=(tmp_path / "absent.yaml",))


def test_batch_that_does_not_divide_names_both_fields() -> None:
    assert "multiple of train.micro_batch=3" in error_of("train.micro_batch=3", "train.global_batch=8")


def test_differences_name_the_changed_fields() -> None:
    old, new = load_config([]), load_config([], ["optim.lr=0.5", "train.seed=9"])
    assert differences(old, new) == [("optim.lr", 1e-3, 0.5), ("train.seed", 0, 9)]


def test_a_mapping_is_one_setting_of_which_single_entries_may_be_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data:\n  class_map: {car: vehicle, 7: null}\n")
    config = load_config([file], ["data.class_map.truck=vehicle", "data.class_map.car=null"])
    assert config.data.class_map == {"car": None, "7": None, "truck": "vehicle"}
    assert load_config([file], ["data.class_map={sky: air}"]).data.class_map == {"sky": "air"}
    assert differences(load_config([]), config) == [("data.class_map", {}, config.data.class_map)]
    assert config_from_tree(to_tree(config), "checkpoint") == config
    file.write_text(to_yaml(config))
    assert load_config([file]) == config


@pytest.mark.parametrize("text", ["[car]", "{car: [vehicle]}", "{no: vehicle}", "{car: on}", "car"])
def test_a_mapping_of_something_else_is_refused(text: str) -> None:
    assert "command line: data.class_map" in error_of(f"data.class_map={text}")
