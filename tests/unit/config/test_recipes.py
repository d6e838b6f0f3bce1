"""The files of `configs/`."""

import re
from pathlib import Path

import pytest

from dist_seg.config.load import load_config
from dist_seg.config.recipes import given_or_shipped, recipe_path
from dist_seg.errors import ConfigError

RECIPES = sorted(recipe_path("synthetic.yaml").parent.glob("*.yaml"))
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=[path.stem for path in RECIPES])


@each_recipe
def test_a_recipe_loads_and_passes_every_check(recipe: Path) -> None:
    config = load_config([recipe])
    assert config.data.shards is not None
    assert config.task in ("semantic", "multilabel", "instance")


@each_recipe
def test_a_recipe_leaves_nothing_to_be_fitted(recipe: Path) -> None:
    """So that it is the same training on every machine."""
    config = load_config([recipe])
    data, augment, train = config.data, config.augment, config.train
    assert None not in (augment.crop_height, augment.crop_width, data.input_scale or data.input_side)
    assert None not in (train.global_batch, train.micro_batch, train.max_steps, train.eval_interval_steps)
    assert config.checkpoint.interval_steps is not None


@each_recipe
def test_a_recipe_names_a_run_folder_of_its_own(recipe: Path) -> None:
    own = load_config([recipe]).run.dir
    others = [load_config([path]).run.dir for path in RECIPES if path != recipe]
    assert own is not None
    assert own not in others


@each_recipe
def test_on_top_of_a_recipe_stands_how_it_is_packed_and_trained(recipe: Path) -> None:
    header = "".join(line for line in recipe.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "dist-seg pack " in header
    assert re.search(rf"(dist-seg|-m dist_seg) train (.*configs/{recipe.name}|--nproc)", header)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bare_name_is_the_recipe_of_that_name(elsewhere: Path) -> None:
    assert given_or_shipped(Path("synthetic_instances.yaml")) == recipe_path("synthetic_instances.yaml")


def test_a_file_of_ones_own_goes_before_a_recipe_of_its_name(elsewhere: Path) -> None:
    (elsewhere / "synthetic.yaml").write_text("task: semantic\n")
    assert given_or_shipped(Path("synthetic.yaml")) == Path("synthetic.yaml")


@pytest.mark.parametrize("given", ["absent.yaml", "configs/synthetic.yaml"])
def test_what_is_no_recipe_stays_what_was_given(elsewhere: Path, given: str) -> None:
    assert given_or_shipped(Path(given)) == Path(given)


def test_a_recipe_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such configuration"):
        recipe_path("absent.yaml")
