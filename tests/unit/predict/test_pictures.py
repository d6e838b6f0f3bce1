import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_seg.config.schema import DataConfig
from dist_seg.errors import DataError, UserError
from dist_seg.masks.drawing import overlay
from dist_seg.predict.masks import predict_mask
from dist_seg.predict.outputs import Outputs
from dist_seg.predict.pictures import Picture, Segmented, find_pictures, predict_pictures
from tests.picture_bombs import huge_jpeg, huge_png, peak_memory_of

PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
UNIT = DataConfig(normalize="unit", input_scale=1.0)
CPU = torch.device("cpu")


def brightest_channel(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Logits that depend on the pixel alone: class = brightest channel."""
    return torch.nn.functional.interpolate(images, size, mode="nearest") * 10


def by_channel(image_hwc: np.ndarray) -> Segmented:
    mask = predict_mask(image_hwc, brightest_channel, data=UNIT, device=CPU)
    return Segmented(mask=mask, overlay=Image.fromarray(overlay(image_hwc, mask, PALETTE)))


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (150, 211, 3), dtype=np.uint8)


def save(photo: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(file)


def test_mask_has_the_size_and_the_classes_of_the_picture(photo: np.ndarray) -> None:
    mask = predict_mask(photo, brightest_channel, data=UNIT, device=CPU)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, photo.argmax(axis=2))


@pytest.mark.parametrize("window", [64, 100, 149])
def test_windows_give_the_result_of_the_whole_picture(photo: np.ndarray, window: int) -> None:
    whole = predict_mask(photo, brightest_channel, data=UNIT, device=CPU)
    assert np.array_equal(predict_mask(photo, brightest_channel, data=UNIT, device=CPU, window=window), whole)


def test_windows_of_a_network_with_context_show_no_seam() -> None:
    torch.manual_seed(0)
    context = torch.nn.Conv2d(3, 3, 9, padding=4)
    smooth = np.kron(np.random.default_rng(1).integers(0, 255, (10, 14, 3)), np.ones((16, 16, 1))).astype(np.uint8)

    @torch.inference_mode()
    def network(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return context(images)

    whole = predict_mask(smooth, network, data=UNIT, device=CPU)
    windowed = predict_mask(smooth, network, data=UNIT, device=CPU, window=64)
    assert np.mean(whole == windowed) > 0.97


def test_input_scale_shrinks_what_the_network_sees_and_not_the_mask(photo: np.ndarray) -> None:
    seen = []

    def network(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        seen.append(tuple(images.shape[-2:]))
        return torch.nn.functional.interpolate(images, size, mode="bilinear")

    half = DataConfig(normalize="unit", input_scale=0.5)
    assert predict_mask(photo, network, data=half, device=CPU).shape == (150, 211)
    assert seen == [(75, 106)] or seen == [(75, 105)]


def test_outputs_keep_the_structure_and_never_collide(tmp_path: Path, photo: np.ndarray) -> None:
    for name in ("a.png", "a.jpg", "b.png", "b_overlay.png", "sub/b.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    pictures, passed_over = find_pictures(tmp_path / "in", tmp_path / "out")
    assert passed_over == 1
    summary = predict_pictures(pictures, Outputs.open(tmp_path / "out", ()), by_channel)
    assert summary.written == 5
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert len(written) == 10
    assert {"a.jpg.png", "a.png.png", "sub/b.png", "sub/b_overlay.png"} <= written


def test_unreadable_picture_is_named_and_the_others_are_written(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    pictures, _ = find_pictures(tmp_path, tmp_path / "out")
    summary = predict_pictures(pictures, Outputs.open(tmp_path / "out", ()), by_channel)
    assert summary.written == 1
    assert len(summary.failed) == 1
    assert "bad.png" in summary.failed[0]


def test_a_picture_that_is_gone_by_now_is_named_and_the_others_are_written(tmp_path: Path, photo: np.ndarray) -> None:
    for name in ("gone.png", "good.png"):
        save(photo, tmp_path / name)
    pictures, _ = find_pictures(tmp_path, tmp_path / "out")
    (tmp_path / "gone.png").unlink()
    summary = predict_pictures(pictures, Outputs.open(tmp_path / "out", ()), by_channel)
    assert (summary.written, summary.failed) == (
        1,
        (f"{tmp_path / 'gone.png'}: cannot be read: No such file or directory",),
    )


def test_picture_turned_by_exif_is_segmented_as_it_is_seen(tmp_path: Path, photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    predict_pictures(find_pictures(tmp_path, tmp_path / "out")[0], Outputs.open(tmp_path / "out", ()), by_channel)
    with Image.open(tmp_path / "out" / "turned.png") as mask:
        assert np.array_equal(np.asarray(mask), np.rot90(photo, -1).argmax(axis=2))


def test_folder_without_pictures_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        find_pictures(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        find_pictures(tmp_path / "absent", tmp_path / "out")


@pytest.mark.parametrize("out", ["in", "in/../in", "link"])
def test_output_among_the_pictures_is_refused(tmp_path: Path, photo: np.ndarray, out: str) -> None:
    save(photo, tmp_path / "in" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(UserError, match=r"is the folder of the pictures; give another folder, such as .*_predicted$"):
        find_pictures(tmp_path / "in", tmp_path / out)


@pytest.mark.parametrize("name", ["b.png", "legend.png"])
def test_output_that_would_take_the_place_of_a_picture_is_refused(tmp_path: Path, photo: np.ndarray, name: str) -> None:
    save(photo, tmp_path / "in" / "a.jpg")
    save(photo, tmp_path / name)
    (tmp_path / "in" / name).hardlink_to(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is one of the pictures"):
        find_pictures(tmp_path / "in", tmp_path)


def test_output_over_the_only_picture_is_refused(tmp_path: Path, photo: np.ndarray) -> None:
    save(photo, tmp_path / "a.png")
    with pytest.raises(UserError, match="would be overwritten"):
        find_pictures(tmp_path / "a.png", tmp_path)


def test_outputs_below_the_pictures_are_no_input_of_the_next_call(tmp_path: Path, photo: np.ndarray) -> None:
    save(photo, tmp_path / "a.png")
    save(photo, tmp_path / "sub" / "b.png")
    for _ in range(2):
        pictures, _ = find_pictures(tmp_path, tmp_path / "sub" / "masks")
        assert [str(picture.stem) for picture in pictures] == ["a", "sub/b"]
        predict_pictures(pictures, Outputs.open(tmp_path / "sub" / "masks", ()), by_channel)


def test_output_folder_that_is_a_file_is_named(tmp_path: Path, photo: np.ndarray) -> None:
    save(photo, tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/out/a\.png: cannot be written: a file lies where a folder is needed"):
        predict_pictures(
            [Picture(file=tmp_path / "a.png", stem=Path("a"))], Outputs.open(tmp_path / "file" / "out", ()), by_channel
        )


def test_a_picture_that_claims_gigabytes_is_named_and_the_others_are_written(tmp_path: Path, photo: np.ndarray) -> None:
    save(photo, tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bomb.png").write_bytes(huge_png(50_000, 50_000))
    (tmp_path / "in" / "bomb.jpg").write_bytes(huge_jpeg(60_000, 60_000))
    pictures, _ = find_pictures(tmp_path / "in", tmp_path / "out")
    with peak_memory_of() as peak:
        summary = predict_pictures(pictures, Outputs.open(tmp_path / "out", ()), by_channel)
    assert summary.written == 1
    assert [Path(text.split(": ")[0]).name for text in summary.failed] == ["bomb.jpg", "bomb.png"]
    assert peak.grown_bytes < 1 << 28


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such names")
def test_no_name_of_a_picture_leads_out_of_the_output_folder(tmp_path: Path, photo: np.ndarray) -> None:
    root = tmp_path / "in"
    for name in ("...png", "..\\..\\up.png", "sub/....png", "line\nbreak.png", "~.png", "C:x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(root / name, "PNG")  # whose suffix Pillow does not see in all of them
    before = set(tmp_path.rglob("*"))
    pictures, _ = find_pictures(root, tmp_path / "out")
    assert predict_pictures(pictures, Outputs.open(tmp_path / "out", ()), by_channel).written == 6
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(new) == 13  # the record of what was written, too
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in new)
