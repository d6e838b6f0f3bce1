"""A leak planted in real data: slightly changed validation images stand under new names among the training images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.formats.camvid import CamvidSource
from dist_seg.data.inspection.trouble import Trouble, find_trouble
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.shards.opened import open_data

from ..scenes import cropped, found, jpeg, scaled

_OF_EACH = 5
_KEPT_EACH = 3
_CHANGES = ("encoded anew", "scaled", "cropped", "mirrored")

pytestmark = pytest.mark.slow


def _changed(picture: NDArray[np.uint8], change: str, *, is_mask: bool) -> NDArray[np.uint8]:
    match change:
        case "encoded anew":
            return picture if is_mask else jpeg(picture, 80)
        case "scaled" if is_mask:
            rows, columns = (np.arange(round(0.9 * length)) * length // round(0.9 * length) for length in picture.shape)
            return picture[np.ix_(rows, columns)]
        case "scaled":
            return scaled(picture, 0.9)
        case "cropped":
            return cropped(picture, 0.05)
        case _:
            return picture[:, ::-1]


@pytest.fixture(scope="module")
def planted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Trouble]:
    """The originals by the names of their copies, and the findings."""
    root = tmp_path_factory.mktemp("camvid")
    for folder in ("train", "trainannot", "val", "valannot"):
        shutil.copytree(shared_data / "camvid" / folder, root / folder, copy_function=shutil.copyfile)
        (root / folder).chmod(0o755)
    for number, path in enumerate(sorted((root / "train").iterdir())):
        if number % _KEPT_EACH:  # enough of the three videos
            path.unlink()
            (root / "trainannot" / f"{path.stem}.png").unlink()
    stems = sorted(path.stem for path in (root / "val").glob("*.jpg"))
    chosen = np.random.default_rng(0).choice(len(stems), _OF_EACH * len(_CHANGES), replace=False)
    originals = {}
    for number, at in enumerate(chosen.tolist()):
        change, name = _CHANGES[number // _OF_EACH], f"drive_{number:04d}"
        originals[f"train/{name}"] = f"val/{stems[at]}"
        image = np.asarray(Image.open(root / "val" / f"{stems[at]}.jpg").convert("RGB"))
        mask = np.asarray(Image.open(root / "valannot" / f"{stems[at]}.png"))
        Image.fromarray(_changed(image, change, is_mask=False)).save(root / "train" / f"{name}.jpg", quality=95)
        Image.fromarray(_changed(mask, change, is_mask=True)).save(root / "trainannot" / f"{name}.png")
    pack(CamvidSource(root=root), root / "packed", PackOptions(workers=2))
    return originals, find_trouble(open_data(root / "packed"), workers=2)


def test_at_least_18_of_20_copies_are_found(planted: tuple[dict[str, str], Trouble]) -> None:
    originals, trouble = planted
    pairs = [dict(zip(("copy", "original"), sorted(pair), strict=True)) for pair in found(trouble)["copies_across"]]
    hits = [pair for pair in pairs if originals.get(pair["copy"]) == pair["original"]]
    assert len(hits) >= 18


def test_at_most_5_images_of_different_videos_are_taken_for_copies(planted: tuple[dict[str, str], Trouble]) -> None:
    originals, trouble = planted
    alarms = []
    for kind, pairs in found(trouble).items():
        if kind.startswith(("copies", "same_pixels", "frames")):
            for pair in pairs:
                videos = {originals.get(name, name).partition("/")[2].partition("_")[0] for name in pair}
                alarms += [pair] if len(videos) > 1 else []
    assert len(alarms) <= 5


def test_frames_that_follow_each_other_are_no_copies(planted: tuple[dict[str, str], Trouble]) -> None:
    originals, trouble = planted
    kinds = found(trouble)
    assert all(any(name in originals for name in pair) for pair in kinds["copies_across"] + kinds["copies_within"])
    assert {"frames_across", "frames_within"} <= kinds.keys()
    assert not {"shifted", "shifted_split", "turned", "misfit"} & kinds.keys()
