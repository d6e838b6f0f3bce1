"""Pascal VOC's layout: lists, palettes and label maps, with exact class ids."""

import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_seg.data.formats.voc.labels import VOC_NAMES, voc_classes, voc_colors
from dist_seg.data.formats.voc.source import VocSource, open_voc
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.errors import DataError, UserError

from ...raw_data import picture, write_image

_PALETTE = [channel for color in voc_colors(256) for channel in color]
_LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:10,20,30::\ndog:40,50,60:head,tail:run\n"


def _ids(value: int = 0) -> NDArray[np.uint8]:
    return np.full((2, 3), value, np.uint8)


def _write(
    root: Path,
    stem: str,
    mask: NDArray[np.generic] | None = None,
    *,
    palette: list[int] | None = None,
    masks: str = "SegmentationClass",
) -> None:
    mask = _ids() if mask is None else mask
    write_image(root / "JPEGImages" / f"{stem}.jpg", picture(*mask.shape[:2]))
    write_image(root / masks / f"{stem}.png", mask, palette)


def _lists(root: Path, **lists: Sequence[str]) -> None:
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join([*lines, ""]))


def _load(source: VocSource) -> list[NDArray[np.integer]]:
    worker = pickle.loads(pickle.dumps(source))
    return [worker.load(sample).mask for sample in source.samples()]


def _splits(source: VocSource) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample in source.samples():
        found.setdefault(sample.split, []).append(sample.key)
    return found


class TestVocsOwnClasses:
    def test_palette_indices_are_the_classes_and_outlines_are_ignored(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", np.array([[0, 1, 20], [15, 255, 255]], np.uint8), palette=_PALETTE)
        _lists(tmp_path, train=["a"])
        assert _load(open_voc(tmp_path))[0].tolist() == [[0, 1, 20], [15, 255, 255]]

    def test_grey_masks_hold_the_same_numbers(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", np.array([[0, 1, 255]], np.uint8))
        _lists(tmp_path, train=["a"])
        assert _load(open_voc(tmp_path))[0].tolist() == [[0, 1, 255]]

    def test_masks_in_colours_are_read_by_vocs_colours(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", np.array([[(0, 0, 0), (128, 0, 0), (0, 64, 128), (224, 224, 192)]], np.uint8))
        _lists(tmp_path, train=["a"])
        assert _load(open_voc(tmp_path))[0].tolist() == [[0, 1, 20, 255]]

    def test_names_and_colours_are_vocs(self) -> None:
        table = voc_classes().numbers
        assert (len(VOC_NAMES), table.names[15], table.names[20]) == (21, "person", "tvmonitor")
        assert [table.palette[i] for i in (0, 1, 7, 15, 20)] == [
            *((0, 0, 0), (128, 0, 0), (128, 128, 128), (192, 128, 128), (0, 64, 128))
        ]
        assert len(set(voc_colors(256))) == 256

    def test_another_number_is_refused_by_file_and_position(self, tmp_path: Path) -> None:
        mask = _ids()
        mask[1, 2] = 21
        _write(tmp_path, "a", mask, palette=_PALETTE)
        _lists(tmp_path, train=["a"])
        with pytest.raises(DataError, match=r"SegmentationClass/a\.png: class id 21 at \(x=2, y=1\)"):
            pack(open_voc(tmp_path), tmp_path / "out")

    def test_another_colour_is_refused_with_what_a_label_map_would_say(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", np.full((2, 3, 3), (1, 2, 3), np.uint8))
        _lists(tmp_path, train=["a"])
        message = r"colour \(1, 2, 3\) at \(x=0, y=0\) .*add a line 'name:R,G,B::' in a labelmap\.txt"
        with pytest.raises(DataError, match=message):
            pack(open_voc(tmp_path), tmp_path / "out")


class TestLists:
    def test_train_and_val_are_packed_and_the_others_named(self, tmp_path: Path) -> None:
        for stem in "abc":
            _write(tmp_path, stem)
        _lists(tmp_path, train=["a"], val=["b", "c"], trainval=["a", "b", "c"], test=["z"])
        source = open_voc(tmp_path)
        assert _splits(source) == {"train": ["a"], "val": ["b", "c"]}
        assert source.notes[0] == "lists that are not packed: test, trainval (--list NAME LIST packs them)"

    def test_lists_may_be_chosen_as_splits(self, tmp_path: Path) -> None:
        for stem in "abc":
            _write(tmp_path, stem)
        _lists(tmp_path, train=["a"], val=["b"], trainval=["a", "b"], test=["c"])
        source = open_voc(tmp_path, [("train", "trainval"), ("val", "val.txt"), ("dev", "test")])
        assert _splits(source) == {"train": ["a", "b"], "val": ["b"], "dev": ["c"]}
        assert "1 image in both train and val" in source.notes

    def test_a_list_of_the_augmented_data_set_names_paths(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _ids(1))
        _write(tmp_path, "a", _ids(2), masks="SegmentationClassAug")
        _lists(tmp_path, train_aug=["/JPEGImages/a.jpg /SegmentationClassAug/a.png"], val=["a"])
        source = open_voc(tmp_path, [("train", "train_aug"), ("val", "val")])
        assert _splits(source) == {"train": ["a"], "val": ["a"]}
        assert [mask[0, 0] for mask in _load(source)] == [2, 1]

    def test_or_names_with_another_folder_of_masks(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _ids(1))
        _write(tmp_path, "a", _ids(2), masks="SegmentationClassAug")
        _lists(tmp_path, train=["a"])
        assert _load(open_voc(tmp_path, masks="SegmentationClassAug"))[0][0, 0] == 2

    def test_a_name_may_hold_blanks_and_folders(self, tmp_path: Path) -> None:
        for stem in ("a b", "c/d e", "f/g"):
            _write(tmp_path, stem)
        _lists(tmp_path, train=['"a b"', "c/d e", "f/g"])
        assert _splits(open_voc(tmp_path)) == {"train": ["a b", "c/d e", "f/g"]}

    def test_the_only_list_is_divided_as_a_folder_is(self, tmp_path: Path) -> None:
        stems = [f"{group}_{i}" for group in "abcdef" for i in range(3)]
        for stem in stems:
            _write(tmp_path, stem)
        _lists(tmp_path, default=stems)
        splits = _splits(open_voc(tmp_path, dividing=Dividing(val=0.4, group_by="^(.)_")))
        assert set(splits) == {"train", "val"}
        groups = {split: {key[0] for key in keys} for split, keys in splits.items()}
        assert not groups["train"] & groups["val"] and len(groups["train"] | groups["val"]) == 6
        assert _splits(open_voc(tmp_path, dividing=Dividing(split="test"))) == {"test": stems}

    def test_dividing_what_is_divided_is_refused(self, tmp_path: Path) -> None:
        _write(tmp_path, "a")
        _lists(tmp_path, train=["a"])
        with pytest.raises(UserError, match=r"--val, --group-by and --split have no effect"):
            open_voc(tmp_path, dividing=Dividing(val=0.1))

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["a", "x"], r"train\.txt:2: there is no image JPEGImages/x of any kind \(\.bmp"),
            (["a", "no_mask"], r"train\.txt:2: there is no mask SegmentationClass/no_mask of any kind"),
            (["a", "", "a"], r"train\.txt:3: 'a' is already in line 1"),
            (["a", "JPEGImages/a.jpg Masks/a.png"], r"train\.txt:2: there is no file .*Masks/a\.png"),
            (["a", "/JPEGImages/a.jpg ../a.png"], r"train\.txt:2: '\.\./a\.png' leads out of"),
        ],
    )
    def test_a_line_at_fault_is_named_or_left_out(self, tmp_path: Path, lines: list[str], message: str) -> None:
        _write(tmp_path, "a")
        write_image(tmp_path / "JPEGImages/no_mask.jpg", picture(2, 3))
        _lists(tmp_path, train=lines)
        with pytest.raises(DataError, match=message + r"(?s:.*)\(--skip-bad\)"):
            open_voc(tmp_path).samples()
        result = pack(
            open_voc(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True)
        )
        assert result.manifest.splits["train"].num_samples == 1
        (refusal,) = result.skipped
        assert re.search(message, refusal.reason) and "has no mask" not in refusal.reason

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ([("train", "trainaug")], r"ImageSets/Segmentation/trainaug\.txt: there is no such list; there are: a, b"),
            ([], r"has no list train\.txt or val\.txt \(there are: a, b\); choose lists with --list"),
        ],
    )
    def test_a_missing_list_is_named_with_those_that_there_are(
        self, tmp_path: Path, parts: list[tuple[str, str]], message: str
    ) -> None:
        _write(tmp_path, "x")
        _lists(tmp_path, a=["x"], b=["x"])
        with pytest.raises(DataError, match=message):
            open_voc(tmp_path, parts)

    def test_an_empty_list_is_refused(self, tmp_path: Path) -> None:
        _write(tmp_path, "a")
        _lists(tmp_path, train=[])
        with pytest.raises(DataError, match=r"train\.txt: names no image"):
            open_voc(tmp_path)

    def test_the_folder_above_is_told_which_is_meant(self, tmp_path: Path) -> None:
        _write(tmp_path / "VOCdevkit" / "VOC2012", "a")
        _lists(tmp_path / "VOCdevkit" / "VOC2012", train=["a"])
        with pytest.raises(DataError, match=r"has no folder JPEGImages; did you mean .*VOCdevkit/VOC2012\?"):
            open_voc(tmp_path)

    @pytest.mark.parametrize(
        ("missing", "message"),
        [
            ("JPEGImages", "has no folder JPEGImages; is this VOC's layout"),
            (
                "SegmentationClass",
                "has no folder SegmentationClass; give their folder with --masks",
            ),
            ("ImageSets", "has no folder ImageSets/Segmentation; is this VOC's layout"),
        ],
    )
    def test_a_missing_folder_is_named(self, tmp_path: Path, missing: str, message: str) -> None:
        _write(tmp_path, "a")
        _lists(tmp_path, train=["a"])
        (tmp_path / missing).rename(tmp_path / "moved")
        with pytest.raises(DataError, match=message):
            open_voc(tmp_path)


class TestLabelMaps:
    def _open(self, root: Path, mask: NDArray[np.generic], text: str, palette: list[int] | None = None) -> VocSource:
        _write(root, "a", mask, palette=palette)
        _lists(root, train=["a"])
        (root / "labelmap.txt").write_text(text)
        return open_voc(root)

    def test_masks_in_colours_are_read_by_the_map(self, tmp_path: Path) -> None:
        mask = np.array([[(40, 50, 60), (0, 0, 0), (10, 20, 30)]], np.uint8)
        source = self._open(tmp_path, mask, _LABEL_MAP)
        assert _load(source)[0].tolist() == [[2, 0, 1]]
        assert source.class_names == ("background", "cat", "dog")
        assert source.palette == ((0, 0, 0), (10, 20, 30), (40, 50, 60))
        assert source.notes == (f"classes from {tmp_path / 'labelmap.txt'}",)

    def test_so_are_palette_masks_whatever_their_indices(self, tmp_path: Path) -> None:
        palette = [40, 50, 60, 10, 20, 30, 0, 0, 0]
        source = self._open(tmp_path, np.array([[0, 1, 2]], np.uint8), _LABEL_MAP, palette)
        assert _load(source)[0].tolist() == [[2, 1, 0]]

    def test_grey_masks_hold_the_numbers_of_the_lines(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, np.array([[0, 1, 2, 255]], np.uint8), _LABEL_MAP)
        assert _load(source)[0].tolist() == [[0, 1, 2, 255]]

    @pytest.mark.parametrize("name", ["ignored", "Void", "ignore"])
    def test_a_label_of_this_name_is_ignored(self, tmp_path: Path, name: str) -> None:
        text = f"background:0,0,0::\n{name}:7,7,7::\ndog:40,50,60::\n"
        source = self._open(tmp_path, np.array([[(40, 50, 60), (7, 7, 7)]], np.uint8), text)
        assert source.class_names == ("background", "dog")
        assert _load(source)[0].tolist() == [[1, 255]]

    def test_labels_without_colours_have_vocs(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, np.array([[(0, 0, 0), (128, 0, 0)]], np.uint8), "background:::\ncat:::\n")
        assert _load(source)[0].tolist() == [[0, 1]]

    def test_a_colour_outside_the_map_is_named_with_its_position(self, tmp_path: Path) -> None:
        mask = np.zeros((2, 3, 3), np.uint8)
        mask[1, 0] = 9, 9, 9
        source = self._open(tmp_path, mask, _LABEL_MAP)
        with pytest.raises(DataError, match=r"a\.png: colour \(9, 9, 9\) at \(x=0, y=1\).*add a line 'name:R,G,B::'"):
            pack(source, tmp_path / "out")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a:0,0,0::\nb:0,0,300::\n", r"labelmap\.txt:2: 'b:0,0,300::'; write .* numbers from 0 to 255"),
            ("a:0,0,0::\nb:::\n", r"labelmap\.txt:2: 'b:::'; write"),
            ("a:0,0,0::\nb\n", r"labelmap\.txt:2: 'b'; write 'name:R,G,B::'"),
            ("a:0,0,0::\nb:0,0,0::\n", r"labelmap\.txt:2: colour 0,0,0 is listed twice"),
            ("a:0,0,0::\na:1,0,0::\n", r"labelmap\.txt: class 'a' is listed twice"),
        ],
    )
    def test_a_map_that_cannot_be_read_is_named_with_its_line(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            self._open(tmp_path, _ids(), text)

    def test_a_list_of_names_serves_numbers_alone(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", np.array([[0, 1, 255]], np.uint8))
        _write(tmp_path, "b", np.zeros((2, 3, 3), np.uint8))
        _lists(tmp_path, train=["a", "b"])
        (tmp_path / "names.txt").write_text("0: sky\n1: road\n")
        source = open_voc(tmp_path, classes=tmp_path / "names.txt")
        assert source.class_names == ("sky", "road")
        first, second = source.samples()
        assert source.load(first).mask.tolist() == [[0, 1, 255]]
        with pytest.raises(DataError, match=r"b\.png: a mask in colours, .*labelmap\.txt .*\(--classes\)"):
            source.load(second)

    def test_other_classes_are_another_version_of_the_samples(self, tmp_path: Path) -> None:
        source = self._open(tmp_path, _ids(), _LABEL_MAP)
        other = self._open(tmp_path, _ids(), _LABEL_MAP.replace("cat:10", "cat:11"))
        assert source.samples()[0].version != other.samples()[0].version
