"""A folder of images and a folder of masks, in the forms that users have."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.formats.folder import open_folder
from dist_seg.data.packing.append import append, open_for_append
from dist_seg.data.packing.folder import record_file
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.records import read_records
from dist_seg.data.raw.found_numbers import find_numbers
from dist_seg.data.raw.listing import Pair
from dist_seg.data.raw.mask_source import MaskSource
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.errors import DataError, StorageError, UserError

from ..raw_data import picture, write_pair


def _open(root: Path, *, dividing: Dividing = Dividing(val=0.0), **options: object) -> MaskSource:
    return open_folder(root / "images", root / "masks", dividing=dividing, **options)  # type: ignore[arg-type]


def _splits(source: MaskSource) -> dict[str, str]:
    return {ref.key: ref.split for ref in source.samples()}


def test_pairs_are_found_in_sub_folders_by_equal_stems(tmp_path: Path) -> None:
    for stem in ("b", "sub/a", "sub/deeper.v2/a"):
        write_pair(tmp_path, stem)
    assert list(_splits(_open(tmp_path))) == ["b", "sub/a", "sub/deeper.v2/a"]
    result = pack(_open(tmp_path), tmp_path / "out")
    assert result.manifest.splits["train"].num_samples == 3


def test_system_files_are_passed_over_and_others_counted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    for name in (".DS_Store", "._a.png", "Thumbs.db", "readme.md"):
        (tmp_path / "images" / name).write_text("")
    assert [ref.key for ref in _open(tmp_path).samples()] == ["a"]
    assert [note for note in _open(tmp_path).notes if "readme.md" in note] == [
        f"ignored 1 file of other types, for example {tmp_path / 'images' / 'readme.md'}"
    ]


def test_classes_file_is_found_beside_the_masks(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    assert _open(tmp_path).class_names == ("x", "y", "z")


def test_masks_inside_the_images_folder_are_no_images(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    shutil.move(tmp_path / "masks", tmp_path / "images" / "masks")
    source = open_folder(tmp_path / "images", tmp_path / "images" / "masks", dividing=Dividing(val=0))
    assert [ref.key for ref in source.samples()] == ["a"]


def test_without_a_list_the_classes_are_found_and_told(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", np.full((4, 4), 3, np.uint8))
    write_pair(tmp_path, "b", np.full((4, 4), 8, np.uint8))
    source = _open(tmp_path)
    assert source.class_names == ("class_3", "class_8")
    assert "3 class_3, 8 class_8" in source.notes[0]


def test_black_and_white_masks_are_background_and_foreground(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    write_pair(tmp_path, "a", mask)
    assert pack(_open(tmp_path), tmp_path / "out").manifest.splits["train"].class_pixels == (8, 8)


def test_black_and_white_masks_with_two_named_classes(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    write_pair(tmp_path, "a", mask)
    (tmp_path / "classes.txt").write_text("paper\nink\n")
    result = pack(_open(tmp_path), tmp_path / "out")
    assert result.manifest.class_names == ("paper", "ink")
    assert result.manifest.splits["train"].class_pixels == (8, 8)


def test_palette_masks_are_read_by_index_with_their_colours(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", np.array([[0, 1], [2, 1]], np.uint8), palette=[9, 9, 9, 128, 0, 0, 0, 128, 0])
    source = _open(tmp_path)
    assert source.palette == ((9, 9, 9), (128, 0, 0), (0, 128, 0))
    assert source.load(source.samples()[0]).mask.tolist() == [[0, 1], [2, 1]]


def test_coloured_masks_are_read_by_the_colour_map(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    (tmp_path / "colors.txt").write_text("0 0 255 water\n255 0 0 fire\n")
    source = _open(tmp_path)
    assert (source.class_names, source.palette) == (("water", "fire"), ((0, 0, 255), (255, 0, 0)))
    assert source.load(source.samples()[0]).mask.tolist() == [[1, 0]]


def test_a_changed_colour_map_changes_the_samples_versions(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    (tmp_path / "colors.txt").write_text("0 0 255 water\n255 0 0 fire\n")
    before = _open(tmp_path).samples()
    (tmp_path / "colors.txt").write_text("255 0 0 water\n0 0 255 fire\n")
    assert _open(tmp_path).samples()[0].version != before[0].version


def test_a_missing_mask_and_a_missing_image_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b")
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "c.png")
    with pytest.raises(DataError, match=r"no mask in .*masks for .*images/b\.jpg"):
        _open(tmp_path)
    (tmp_path / "images" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"no image in .*images for .*masks/c\.png"):
        _open(tmp_path)


def test_names_that_never_match_say_what_is_there(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_mask.png")
    with pytest.raises(
        DataError, match=r"its image's name up to the suffix, but the masks are named like .*a_mask\.png"
    ):
        _open(tmp_path)


def test_two_images_of_one_stem_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    Image.fromarray(picture()).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"images/a\.jpg and .*images/a\.png have the same name"):
        _open(tmp_path)


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_a_missing_or_empty_folder_is_named(tmp_path: Path, missing: str) -> None:
    write_pair(tmp_path, "a")
    shutil.rmtree(tmp_path / missing)
    with pytest.raises(DataError, match=rf"{missing}: no such folder"):
        _open(tmp_path)
    (tmp_path / missing).mkdir()
    with pytest.raises(DataError, match=rf"{missing}: holds no images"):
        _open(tmp_path)


def test_one_folder_for_both_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    with pytest.raises(DataError, match="must be two folders"):
        open_folder(tmp_path / "images", tmp_path / "masks" / ".." / "images")


def test_a_mask_of_another_size_is_named_when_packed(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match=r"masks/a\.png: the mask is 6x5 .*images/a\.jpg 30x20"):
        pack(_open(tmp_path), tmp_path / "out")


def test_an_id_out_of_range_is_named_when_packed(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[2, 1] = 9
    write_pair(tmp_path, "a", mask)
    (tmp_path / "classes.txt").write_text("x\ny\n")
    with pytest.raises(DataError, match=r"masks/a\.png: class id 9 at \(x=1, y=2\).*0 x, 1 y; ignored: 255"):
        pack(_open(tmp_path), tmp_path / "out")


def test_an_undecodable_mask_does_not_stop_the_search_for_classes(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b")
    (tmp_path / "masks" / "b.png").write_bytes(b"garbage")
    source = _open(tmp_path)
    with pytest.raises(DataError, match=r"masks/b\.png: is not an image"):
        pack(source, tmp_path / "out")
    assert pack(source, tmp_path / "out", PackOptions(skip_bad=True)).manifest.splits["train"].num_samples == 1


def test_a_coloured_mask_among_grey_ones_is_left_out_and_counted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8))
    write_pair(tmp_path, "b", np.array([[0, 1]], np.uint8))
    with pytest.raises(DataError, match=r"masks/a\.png: a mask in colours"):
        pack(_open(tmp_path), tmp_path / "out")
    result = pack(_open(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
    split = result.manifest.splits["train"]
    assert (result.manifest.class_names, split.num_samples, split.skipped_samples) == (("class_0", "class_1"), 1, 1)


def test_a_missing_mask_and_a_missing_image_are_left_out_and_counted(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        write_pair(tmp_path, stem)
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "images" / "c.jpg").unlink()
    result = pack(_open(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
    assert (result.manifest.splits["train"].num_samples, result.manifest.splits["train"].skipped_samples) == (1, 2)
    reasons = sorted(refusal.reason for refusal in result.skipped)
    assert reasons == [f"{tmp_path}/images/b.jpg: has no mask", f"{tmp_path}/masks/c.png: a mask that has no image"]


def test_names_that_never_match_are_no_bad_samples(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "masks" / "a.png").rename(tmp_path / "masks" / "a_mask.png")
    with pytest.raises(DataError, match="its image's name up to the suffix"):
        _open(tmp_path, reading=RawReading(skip_bad=True))


def test_a_mask_of_too_large_numbers_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(np.full((20, 30), 70_000, np.int32)).save(tmp_path / "masks" / "a.tif")
    with pytest.raises(DataError, match=r"masks/a\.tif: holds the number 70000; class ids are 0 to 65535"):
        _open(tmp_path)
    write_pair(tmp_path, "b")
    with pytest.raises(DataError, match=r"masks/a\.tif: class id 70000 at"):
        pack(_open(tmp_path), tmp_path / "out")


def test_classes_with_numbers_keep_them_though_the_masks_are_black_and_white(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    write_pair(tmp_path, "a", mask)
    (tmp_path / "classes.txt").write_text("0 background\n1 defect\n")
    split = pack(_open(tmp_path), tmp_path / "out").manifest.splits["train"]
    assert (split.class_pixels, split.ignored_pixels) == ((8, 0), 8)


def _row(*numbers: int) -> np.ndarray:
    return np.array([numbers], np.uint8)


@pytest.mark.parametrize(
    ("pixels", "colors"),
    [
        (np.array([[False, True]]), "0 0 0 background\n255 255 255 thing\n"),
        (_row(0, 255), "0 0 0 background\n255 255 255 thing\n"),
        (np.array([[0, 7]], np.uint16), "0 0 0 background\n7 7 7 thing\n"),
    ],
)
def test_a_colour_map_reads_the_greys_that_a_viewer_shows(tmp_path: Path, pixels: np.ndarray, colors: str) -> None:
    (tmp_path / "colors.txt").write_text(colors)
    write_pair(tmp_path, "a", pixels)
    source = _open(tmp_path)
    assert source.load(source.samples()[0]).mask.tolist() == [[0, 1]]


def test_black_and_white_masks_with_smoothed_edges_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[8:20, 10:25] = 255
    smoothed = Image.fromarray(mask).resize((64, 48), Image.Resampling.BILINEAR)
    write_pair(tmp_path, "a", np.asarray(smoothed))
    message = r"masks: most pixels are 0 and 255, with \d+ numbers between .*a\.png\. .*nearest neighbour .*--classes"
    with pytest.raises(DataError, match=message):
        _open(tmp_path)
    (tmp_path / "classes.txt").write_text("".join(f"{number} c{number}\n" for number in range(256) if number < 255))
    assert len(_open(tmp_path).class_names) == 255


@pytest.mark.parametrize(
    "numbers",
    [
        [*range(21)] * 3 + [255] * 200,
        [0] * 50 + [*range(1, 183)] * 2 + [10] * 100 + [255] * 60,
        [0] * 50 + [40, 80, 120, 160, 200] * 3 + [255] * 60,
    ],
)
def test_class_ids_are_not_taken_for_smoothed_edges(tmp_path: Path, numbers: list[int]) -> None:
    write_pair(tmp_path, "a", _row(*numbers))
    assert len(_open(tmp_path).class_names) == len({*numbers} - {255})


def test_more_numbers_than_there_may_be_classes_are_told(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", _row(*range(0, 250, 10)))
    assert "25 different numbers up to 240 are many for classes" in _open(tmp_path).notes[1]
    write_pair(tmp_path, "a", _row(*range(30)))
    assert not any("many for classes" in note for note in _open(tmp_path).notes)


class TestWhat255Is:
    def test_that_it_is_ignored_is_told(self, tmp_path: Path) -> None:
        write_pair(tmp_path, "a", _row(0, 1, 255, 2))
        write_pair(tmp_path, "b", _row(0, 1, 1, 2))
        note = "255 is in 1 mask (12.50% of all pixels) and ignored; if it is a class, name it with a line"
        assert note in _open(tmp_path).notes[1]

    @pytest.mark.parametrize("classes", ["", "bg\nthing\n"])
    def test_masks_of_1_and_others_of_255_are_refused(self, tmp_path: Path, classes: str) -> None:
        write_pair(tmp_path, "a", _row(0, 1))
        write_pair(tmp_path, "b", _row(0, 255))
        if classes:
            (tmp_path / "classes.txt").write_text(classes)
        with pytest.raises(
            DataError, match=r"masks/a\.png holds 1, .*masks/b\.png holds 255, and no mask holds both: .*colors\.txt"
        ):
            _open(tmp_path)
        (tmp_path / "classes.txt").write_text("0 bg\n1 thing\n")
        assert _open(tmp_path).classes.values == {0: 0, 1: 1, 255: 255}

    def _packed(self, root: Path, *numbers: int) -> Path:
        (root / "classes.txt").write_text("bg\nthing\n")
        write_pair(root / "first", "a", _row(*numbers))
        pack(_open(root / "first", classes=root / "classes.txt"), root / "out")
        return root / "out"

    def _more(self, root: Path, out: Path, *numbers: int, classes: str = "bg\nthing\n") -> MaskSource:
        (root / "more.txt").write_text(classes)
        write_pair(root / "more", "b", _row(*numbers))
        return _open(root / "more", classes=root / "more.txt", before=read_records(record_file(out)).options or {})

    def test_void_stays_void_in_what_is_appended(self, tmp_path: Path) -> None:
        out = self._packed(tmp_path, 0, 1, 255)
        source = self._more(tmp_path, out, 0, 0, 255)
        assert source.notes[0] == "255 is ignored, as in the data set you append to"
        split = append(source, open_for_append(out)).manifest.splits["train"]
        assert (split.class_pixels, split.ignored_pixels) == ((3, 1), 2)

    def test_white_stays_a_class_in_what_is_appended(self, tmp_path: Path) -> None:
        out = self._packed(tmp_path, 0, 255)
        assert append(self._more(tmp_path, out, 0, 255, 0), open_for_append(out)).manifest.splits[
            "train"
        ].class_pixels == (3, 2)
        with pytest.raises(DataError, match=r"masks/b\.png: class id 1 at \(x=1, y=0\)"):
            self._more(tmp_path, out, 0, 1).load(self._more(tmp_path, out, 0, 1).samples()[0])

    def test_other_numbers_than_then_are_refused(self, tmp_path: Path) -> None:
        out = self._packed(tmp_path, 0, 255)
        with pytest.raises(
            DataError, match=r"out was packed with number 255 as 'thing', what is to be appended has it ignored"
        ):
            append(self._more(tmp_path, out, 0, 255, classes="0 bg\n1 thing\n"), open_for_append(out))

    def test_where_nobody_knows_it_has_to_be_said(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"masks/b\.png: holds 255, and .* does not record whether that is thing or ignored"
        ):
            self._more(tmp_path, tmp_path / "none", 0, 255)
        assert self._more(tmp_path, tmp_path / "none", 0, 1).classes.values == {0: 0, 1: 1, 255: 255}

    def test_colours_do_not_tell_what_255_is(self, tmp_path: Path) -> None:
        (tmp_path / "colors.txt").write_text("0 0 0 bg\n255 255 255 thing\n")
        write_pair(tmp_path / "first", "a", _row(0, 255))
        pack(_open(tmp_path / "first", colors=tmp_path / "colors.txt"), tmp_path / "out")
        (tmp_path / "colors.txt").unlink()
        with pytest.raises(DataError, match="does not record whether that is thing or ignored"):
            self._more(tmp_path, tmp_path / "out", 0, 255)


def test_a_group_is_never_on_both_sides(tmp_path: Path) -> None:
    stems = [f"slide{slide}_{i}" for slide in range(10) for i in range(3)]
    for stem in stems:
        write_pair(tmp_path, stem, np.zeros((2, 2), np.uint8))
    splits = _splits(_open(tmp_path, dividing=Dividing(val=0.2, group_by=r"^(slide\d+)_")))
    by_group = {stem.split("_")[0]: {splits[s] for s in stems if s.startswith(stem.split("_")[0])} for stem in stems}
    assert all(len(found) == 1 for found in by_group.values())
    assert 0 < list(splits.values()).count("val") <= 15


def test_a_single_group_shows_before_packing(tmp_path: Path) -> None:
    write_pair(tmp_path, "slide1_a")
    write_pair(tmp_path, "slide1_b")
    with pytest.raises(DataError, match="one group"):
        _open(tmp_path, dividing=Dividing(val=0.5, group_by=r"^(slide\d+)_"))


def test_sub_folders_named_after_splits_are_the_splits(tmp_path: Path) -> None:
    for stem in ("train/a", "train/b", "val/a"):
        write_pair(tmp_path, stem)
    assert _splits(_open(tmp_path, dividing=Dividing())) == {"train/a": "train", "train/b": "train", "val/a": "val"}


@pytest.mark.parametrize(
    ("dividing", "message"),
    [
        (Dividing(val=0.1), r"already divided into train, val.*\(--val\) has no effect"),
        (Dividing(val=0.0, split="test"), r"already divided into train, val.*\(--split\) has no effect"),
    ],
)
def test_options_that_divided_folders_leave_without_effect_are_refused(
    tmp_path: Path, dividing: Dividing, message: str
) -> None:
    for stem in ("train/a", "val/b"):
        write_pair(tmp_path, stem)
    with pytest.raises(UserError, match=message):
        _open(tmp_path, dividing=dividing)


def test_groups_of_divided_folders_are_checked(tmp_path: Path) -> None:
    for stem in ("train/slide1_a", "train/slide2_a", "val/slide3_a"):
        write_pair(tmp_path, stem)
    by_slide = Dividing(group_by=r"^(.*)_")
    assert set(_splits(_open(tmp_path, dividing=by_slide)).values()) == {"train", "val"}
    write_pair(tmp_path, "val/slide2_b")
    with pytest.raises(DataError, match="group 'slide2' has samples in train and in val"):
        _open(tmp_path, dividing=by_slide)


def test_groups_without_a_share_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "slide1_a")
    for dividing in (Dividing(val=0.0, group_by="^(slide"), Dividing(split="test", group_by="^(slide")):
        with pytest.raises(UserError, match=r"--group-by '\^\(slide' has no effect.*give --val"):
            _open(tmp_path, dividing=dividing)


def test_a_rest_that_is_called_val_beside_a_share_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    with pytest.raises(UserError, match=r"--split val and --val 0\.1 would both make a split called val"):
        _open(tmp_path, dividing=Dividing(val=0.1, split="val"))
    assert _splits(_open(tmp_path, dividing=Dividing(split="val"))) == {"a": "val"}


def test_a_tenth_is_for_validation_unless_said_otherwise(tmp_path: Path) -> None:
    for i in range(60):
        write_pair(tmp_path, f"{i}", np.zeros((2, 2), np.uint8))
    assert 2 <= list(_splits(_open(tmp_path, dividing=Dividing())).values()).count("val") <= 12
    assert set(_splits(_open(tmp_path, dividing=Dividing(split="test"))).values()) == {"test"}


def test_the_only_split_may_be_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    assert _splits(_open(tmp_path, dividing=Dividing(val=0.0, split="test"))) == {"a": "test"}


def test_a_mask_that_cannot_be_read_is_left_to_packing_unless_it_is_the_only_one(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    read = Pair(stem="a", image=tmp_path / "images" / "a.jpg", mask=tmp_path / "masks" / "a.png")
    gone = Pair(stem="b", image=tmp_path / "images" / "b.jpg", mask=tmp_path / "masks" / "b.png")
    alone, both = (find_numbers(pairs, MAX_PIXELS, None) for pairs in ([read], [read, gone]))
    assert alone.pixels == both.pixels
    with pytest.raises(StorageError, match=r"masks/b\.png: cannot be read"):
        find_numbers([gone], MAX_PIXELS, None)


def test_links_in_a_circle_and_broken_ones(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    assert [ref.key for ref in _open(tmp_path).samples()] == ["a"]
    write_pair(tmp_path, "b")
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "images" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(StorageError, match=r"images/b\.jpg: cannot be read"):
        _open(tmp_path).samples()


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    for stem in ("caf\udce9", "b"):
        write_pair(tmp_path, stem)
    result = pack(_open(tmp_path, dividing=Dividing(val=0.5)), tmp_path / "out")
    assert sum(split.num_samples for split in result.manifest.splits.values()) == 2


def test_survives_pickle(tmp_path: Path) -> None:
    write_pair(tmp_path, "a")
    source = _open(tmp_path)
    assert pickle.loads(pickle.dumps(source)) == source
