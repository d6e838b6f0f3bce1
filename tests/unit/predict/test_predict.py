"""Prediction as a call from Python, without the command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.checkpoint.state import CheckpointMeta, TrainingState
from dist_seg.config.load import load_config, to_tree, to_yaml
from dist_seg.data.view.open import load_view
from dist_seg.distributed.world import World
from dist_seg.errors import ConfigError
from dist_seg.predict.predict import PredictOptions, predict
from dist_seg.runs.folder import RunFolder
from dist_seg.tasks.build import build_task
from dist_seg.tasks.classes import class_info, manifest_meta


@pytest.fixture(scope="module")
def run_dir(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of random weights."""
    folder = RunFolder(path=tmp_path_factory.mktemp("predict") / "run")
    small = ["model.encoder=resnet18", "model.weights=null", "model.aspp_channels=8", "model.decoder_channels=8"]
    config = load_config([], ["task=semantic", f"data.shards={synthetic_shards}", *small])
    view = load_view(config.data)
    weights = build_task(config, class_info(view)).build_model().state_dict()
    meta = CheckpointMeta(step=5, config=to_tree(config), manifest=manifest_meta(view), world_size=1)
    folder.checkpoints.save(TrainingState(meta=meta, model=weights, ema=weights, optimizer={}))
    folder.write_text("config.yaml", to_yaml(config))
    return folder.path


def test_pictures_are_segmented_and_those_that_cannot_be_read_are_named(run_dir: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no JPEG")
    (tmp_path / "notes.txt").write_text("no picture")
    summary = predict(PredictOptions(run_dir=run_dir, input=tmp_path, out=tmp_path / "masks"), World())
    assert (summary.written, summary.instances, summary.passed_over) == (1, None, 1)
    [failed] = summary.failed
    assert "b.jpg" in failed
    assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {"a.png", "a_overlay.png", "legend.png"}
    with Image.open(tmp_path / "masks" / "a.png") as mask:
        assert mask.size == (96, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 63}, "--window 63: must be at least 64 pixels"),
        ({"min_score": 1.5}, "--min-score 1.5: must lie between 0 and 1"),
        ({"min_score": float("nan")}, "--min-score nan: must lie between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictOptions(run_dir=tmp_path, input=tmp_path, out=tmp_path, **changes)  # type: ignore[arg-type]
