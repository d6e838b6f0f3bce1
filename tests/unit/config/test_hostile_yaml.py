"""Configurations that are made to harm: code in tags, and a few lines that stand for millions of values."""

import os
from pathlib import Path

import pytest

from dist_seg.config.load import load_config
from dist_seg.errors import ConfigError


def config_of(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [{marker}]",
        "!!python/object/new:os.mkdir [{marker}]",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!custom 3",
    ],
)
def test_a_tag_of_an_object_is_refused_and_nothing_is_called(tmp_path: Path, tag: str) -> None:
    marker = tmp_path / "called"
    file = config_of(tmp_path, f"train:\n  seed: {tag.format(marker=marker)}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: not valid YAML: could not determine a constructor"):
        load_config([file])
    assert not marker.exists()


def test_a_tag_on_the_command_line_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "called"
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config([], [f"train.seed=!!python/object/apply:os.mkdir [{marker}]"])
    assert not os.path.lexists(marker)


def bomb(entry: str) -> str:
    """Nine levels of ten aliases: 10^9 values in a kilobyte."""
    lines = [f"l0: &l0 {entry}"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("entry", ["[a, b]", "{a: 1, b: 2}", "text"])
def test_aliases_that_stand_for_a_billion_values_are_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: .*more than 10000 values once its aliases are expanded"):
        load_config([config_of(tmp_path, bomb(entry))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: &t\n  seed: *t\n", "levels deep"),
        ("train: &t [*t]\n", "levels deep"),
        ("train: " + "[" * 100 + "]" * 100, "levels deep"),
        ("train: " + "[" * 20_000, "nested too deeply"),
        ("l0: &l0 [a]\n" + "".join(f"l{i}: &l{i} [*l{i - 1}]\n" for i in range(1, 3000)), "levels deep"),
        ("# " + "x" * (1 << 20), "more than a configuration may have"),
    ],
    ids=["in itself", "list in itself", "deep", "deeper than the stack", "deep by aliases", "large"],
)
def test_what_never_ends_or_is_too_large_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([config_of(tmp_path, text)])


def test_aliases_in_moderation_are_fine(tmp_path: Path) -> None:
    text = "augment: {crop_height: &size 64, crop_width: *size}\n"
    config = load_config([config_of(tmp_path, text)])
    assert (config.augment.crop_height, config.augment.crop_width) == (64, 64)
