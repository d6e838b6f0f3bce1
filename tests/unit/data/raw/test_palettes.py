"""Data sets whose palettes agree on the colour of each index, and others."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.formats.folder import open_folder
from dist_seg.data.formats.voc.source import open_voc
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.images import RawMask
from dist_seg.data.raw.mask_source import MaskSource
from dist_seg.data.raw.palettes import IndexColors, common_colors
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.errors import DataError

from ..raw_data import picture, write_image, write_pair

_BLACK, _RED, _BLUE = (0, 0, 0), (255, 0, 0), (0, 0, 255)
_INDICES = np.array([[0, 0, 1, 1]], np.uint8)


def _flat(*colors: tuple[int, int, int]) -> list[int]:
    return [channel for color in colors for channel in color]


def _folder(root: Path, *palettes: list[int], classes: str = "") -> MaskSource:
    for number, palette in enumerate(palettes):
        write_pair(root, f"{number}", _INDICES, palette=palette)
    if classes:
        (root / "classes.txt").write_text(classes)
    return open_folder(root / "images", root / "masks", dividing=Dividing(val=0.0), reading=RawReading(skip_bad=True))


def _voc(root: Path, indices: NDArray[np.uint8], *palettes: list[int]) -> None:
    for number, palette in enumerate(palettes):
        write_image(root / "JPEGImages" / f"{number}.jpg", picture(*indices.shape))
        write_image(root / "SegmentationClass" / f"{number}.png", indices, palette)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{number}\n" for number in range(len(palettes))))


class TestFolders:
    @pytest.mark.parametrize("classes", ["", "background\nthing\n"])
    def test_an_index_of_two_colours_is_an_error_that_names_both_files(self, tmp_path: Path, classes: str) -> None:
        source = _folder(tmp_path, _flat(_BLACK, _RED), _flat(_BLACK, _BLUE), classes=classes)
        message = (
            r"masks/1\.png: index 1, at \(x=2, y=0\), has the colour \(0, 0, 255\) in its palette, but \(255, 0, 0\) "
            r"in .*masks/0\.png; .*'R G B name' \(--colors\)"
        )
        with pytest.raises(DataError, match=message):
            pack(source, tmp_path / "out")

    def test_those_that_differ_from_most_are_left_out_where_that_is_allowed(self, tmp_path: Path) -> None:
        swapped, usual = _flat((255, 255, 255), _BLACK), _flat(_BLACK, (255, 255, 255))
        result = pack(_folder(tmp_path, swapped, usual, usual), tmp_path / "out", PackOptions(skip_bad=True))
        (refusal,) = result.skipped
        assert "masks/0.png: index 0" in refusal.reason
        assert result.manifest.splits["train"].num_samples == 2

    def test_palettes_of_every_file_s_own_colours_are_found_out(self, tmp_path: Path) -> None:
        for name, colors in (("a", [_BLACK, _RED, _BLUE]), ("b", [_BLACK, _BLUE])):
            pixels = np.array([colors], np.uint8)
            write_pair(tmp_path, name, pixels)
            adapted = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=len(colors))
            adapted.save(tmp_path / "masks" / f"{name}.png")
        source = open_folder(tmp_path / "images", tmp_path / "masks", dividing=Dividing(val=0.0))
        with pytest.raises(DataError, match="if palettes differ, indices are no class ids"):
            pack(source, tmp_path / "out", PackOptions(workers=2))

    @pytest.mark.parametrize("unused", [[(9, 9, 9)], [(2, 2, 2)], [_BLACK, _BLACK], []])
    def test_entries_that_are_not_in_use_may_differ(self, tmp_path: Path, unused: list[tuple[int, int, int]]) -> None:
        source = _folder(tmp_path, _flat(_BLACK, _RED, _BLUE, _BLUE), _flat(_BLACK, _RED, *unused))
        assert pack(source, tmp_path / "out").manifest.splits["train"].num_samples == 2

    def test_a_ramp_of_greys_is_no_other_palette(self, tmp_path: Path) -> None:
        source = _folder(tmp_path, _flat(_BLACK, _RED), _flat(*((i, i, i) for i in range(256))))
        assert pack(source, tmp_path / "out").manifest.splits["train"].num_samples == 2

    def test_with_a_colour_map_palettes_may_differ(self, tmp_path: Path) -> None:
        (tmp_path / "colors.txt").write_text("0 0 0 background\n255 0 0 red\n0 0 255 blue\n")
        source = _folder(tmp_path, _flat(_BLACK, _RED), _flat(_BLACK, _BLUE))
        assert [source.load(ref).mask.tolist() for ref in source.samples()] == [[[0, 0, 1, 1]], [[0, 0, 2, 2]]]

    def test_other_common_colours_are_another_version_and_none_are_none(self, tmp_path: Path) -> None:
        red = _folder(tmp_path, _flat(_BLACK, _RED)).samples()[0].version
        write_pair(tmp_path, "1", _INDICES, palette=_flat(_BLACK, _BLUE))
        write_pair(tmp_path, "2", _INDICES, palette=_flat(_BLACK, _BLUE))
        assert _folder(tmp_path, _flat(_BLACK, _RED)).index_colors.version not in red
        assert IndexColors().version == ""


class TestVoc:
    def test_an_index_in_another_colour_than_vocs_is_refused(self, tmp_path: Path) -> None:
        _voc(tmp_path, _INDICES, _flat(_BLACK, _RED))
        message = (
            r"SegmentationClass/0\.png: index 1, at \(x=2, y=0\), has the colour \(255, 0, 0\) in its palette, but "
            r"\(128, 0, 0\) in Pascal VOC's; .*\(--classes\)"
        )
        with pytest.raises(DataError, match=message):
            pack(open_voc(tmp_path), tmp_path / "out")

    def test_with_names_a_palette_of_its_own_must_be_all_files(self, tmp_path: Path) -> None:
        (tmp_path / "names.txt").write_text("background\nred\n")
        _voc(tmp_path / "one", _INDICES, *[_flat(_BLACK, _RED)] * 2)
        _voc(tmp_path / "two", _INDICES, _flat(_BLACK, _RED), _flat(_BLACK, _BLUE))
        one, two = (open_voc(tmp_path / name, classes=tmp_path / "names.txt") for name in ("one", "two"))
        assert pack(one, tmp_path / "out").manifest.splits["train"].num_samples == 2
        with pytest.raises(DataError, match=r"Class/1\.png: index 1, .*in .*Class/0\.png; .*'name:R,G,B::'"):
            pack(two, tmp_path / "out2")

    @pytest.mark.parametrize("outline", [(0, 0, 0), (255, 255, 255), (224, 224, 192)])
    def test_the_outline_may_have_no_colour(self, tmp_path: Path, outline: tuple[int, int, int]) -> None:
        palette = _flat(_BLACK, (128, 0, 0), *[_BLACK] * 253, outline)
        _voc(tmp_path, np.array([[0, 1, 255]], np.uint8), palette)
        assert pack(open_voc(tmp_path), tmp_path / "out").manifest.splits["train"].ignored_pixels == 1

    def test_a_ramp_of_greys_says_nothing(self, tmp_path: Path) -> None:
        _voc(tmp_path, _INDICES, _flat(*((i, i, i) for i in range(256))))
        assert pack(open_voc(tmp_path), tmp_path / "out").manifest.splits["train"].num_samples == 1


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_palettes_are_found_in_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(_INDICES).convert("P")
    image.putpalette(_flat(_BLACK, (9, 8, 7)))
    image.save(tmp_path / f"a.{suffix}")
    assert common_colors([tmp_path / f"a.{suffix}"], "").colors == {0: _BLACK, 1: (9, 8, 7)}


def test_a_palette_behind_much_else_in_a_file_is_found(tmp_path: Path) -> None:
    image = Image.fromarray(_INDICES).convert("P")
    image.putpalette(_flat(_BLACK, (9, 8, 7)))
    image.save(tmp_path / "a.png", icc_profile=bytes(np.random.default_rng(0).bytes(20_000)))
    assert common_colors([tmp_path / "a.png"], "").colors[1] == (9, 8, 7)


def test_files_that_cannot_be_read_are_left_to_packing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "b.gif").write_bytes(b"GIF89a")
    assert common_colors([tmp_path / name for name in ("a.png", "b.gif", "c.png")], "") == IndexColors()


def test_an_index_beyond_the_palette_is_black() -> None:
    mask = RawMask(values=np.array([[0, 5]], np.uint8), palette=(_BLACK, _RED))
    colors = IndexColors(colors={5: _BLUE}, sources={5: "a.png"})
    with pytest.raises(DataError, match=r"index 5, at \(x=1, y=0\), has the colour \(0, 0, 0\)"):
        colors.check(mask, "m")
