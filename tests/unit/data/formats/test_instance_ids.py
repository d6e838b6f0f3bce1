"""Masks of object ids: the objects, their classes, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.formats.cityscapes import CityscapesInstances
from dist_seg.data.formats.instance_ids import InstanceIdSource, open_instance_ids
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.errors import DataError, UserError
from dist_seg.masks.rle import decode_mask
from dist_seg.storage.object_store import open_storage

from ..raw_data import picture

_CLASSES = "24 person\n26 car\n29 ignore\n"


def _ids(*values: int, dtype: type[np.generic] = np.uint16) -> NDArray[np.generic]:
    """(6, 8) background with a column of two pixels for every value."""
    ids = np.zeros((6, 8), dtype)
    for column, value in enumerate(values):
        ids[1:3, column] = value
    return ids


def _write(root: Path, stem: str, ids: NDArray[np.generic], image_suffix: str = "png") -> None:
    for folder, name, array in (("images", f"{stem}.{image_suffix}", picture(6, 8)), ("masks", f"{stem}.png", ids)):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def _open(
    root: Path, classes: str | None = None, *, dividing: Dividing = Dividing(val=0.0), **options: object
) -> InstanceIdSource:
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return open_instance_ids(root / "images", root / "masks", dividing=dividing, **options)  # type: ignore[arg-type]


def _objects(source: InstanceIdSource | CityscapesInstances) -> list[tuple[int, int, bool]]:
    """(id, class, is a crowd) of each object in the only sample."""
    (sample,) = source.samples()
    return [(o.id, o.class_id, o.crowd) for o in source.load(sample).objects]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_but_0_is_an_object_of_one_class(tmp_path: Path, dtype: type[np.generic]) -> None:
    _write(tmp_path, "a", _ids(7, 255, 3, 7, dtype=dtype))
    source = _open(tmp_path)
    assert (source.class_names, source.category_ids) == (("object",), (1,))
    assert _objects(source) == [(3, 0, False), (7, 0, False), (255, 0, False)]


def test_an_object_s_mask_is_where_its_value_stands(tmp_path: Path) -> None:
    ids = _ids(9, 300, 9)
    _write(tmp_path, "a", ids)
    source = _open(tmp_path)
    raw = source.load(source.samples()[0])
    for found in raw.objects:
        assert np.array_equal(decode_mask(found.rle, raw.height, raw.width), ids == found.id)


def test_a_mask_of_background_alone_has_no_objects(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids())
    assert _objects(_open(tmp_path)) == []


def test_the_class_takes_its_name_from_the_file(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids(1))
    source = _open(tmp_path, "nucleus\n")
    assert source.class_names == ("nucleus",)
    assert source.notes == (f"classes from {tmp_path / 'classes.txt'}",)


def test_values_hold_the_class_by_the_divisor(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids(24000, 26001, 24001, 26017))
    source = _open(tmp_path, _CLASSES, divisor=1000)
    assert (source.class_names, source.category_ids) == (("person", "car"), (24, 26))
    assert _objects(source) == [(24000, 0, False), (24001, 0, False), (26001, 1, False), (26017, 1, False)]


def test_a_class_alone_is_a_group_and_without_a_name_background(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids(24, 7, 26, 29, 255, 26000))
    assert _objects(_open(tmp_path, _CLASSES, divisor=1000)) == [(24, 0, True), (26, 1, True), (26000, 1, False)]


def test_the_objects_of_an_ignored_class_are_left_out(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids(29003, 24000))
    assert _objects(_open(tmp_path, _CLASSES, divisor=1000)) == [(24000, 0, False)]


def test_an_object_of_an_unknown_class_is_refused_by_file_value_and_position(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids(24000, 0, 31002))
    with pytest.raises(
        DataError, match=r"a\.png: value 31002 at \(x=2, y=1\) \(2 such pixels\) is an object of class 31,"
    ):
        pack(_open(tmp_path, _CLASSES, divisor=1000), tmp_path / "out")


def test_a_mask_in_colours_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "a", np.full((6, 8, 3), (1, 2, 3), np.uint8))
    with pytest.raises(
        DataError, match=r"masks/a\.png: in colours, \(1, 2, 3\) at \(x=0, y=0\); object ids must be grey"
    ):
        pack(_open(tmp_path), tmp_path / "out")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "a", np.zeros((6, 9), np.uint8))
    with pytest.raises(DataError, match=r"masks/a\.png: annotations for 9x6 pixels .*images/a\.png is 8x6"):
        pack(_open(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("classes", "divisor", "message"),
    [
        ("a\nb\n", None, r"classes\.txt: names 2 classes, but without --divisor"),
        (None, 1000, r"masks: with --divisor 1000 values hold classes, which need names"),
        ("24 person\n", 1, r"--divisor is 1; give"),
        ("person\ncar\n", 1000, r"classes\.txt: with --divisor every line must be `number name`"),
        ("24 person\n1024 car\n", 1000, r"classes\.txt: class number 1024 is not below the divisor 1000"),
        ("0 floor\n24 person\n", 1000, r"classes\.txt: class number 0 is 'floor', but 0 is the background"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, classes: str | None, divisor: int | None, message: str
) -> None:
    _write(tmp_path, "a", _ids(1))
    with pytest.raises(UserError, match=message):
        _open(tmp_path, classes, divisor=divisor)


def test_a_lone_image_may_be_left_out_and_is_counted(tmp_path: Path) -> None:
    _write(tmp_path, "a", _ids(1))
    _write(tmp_path, "b", _ids(1))
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"no mask in .* for .*b\.png"):
        _open(tmp_path)
    result = pack(_open(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
    assert [str(refusal) for refusal in result.skipped] == [f"{tmp_path / 'images' / 'b.png'}: has no mask"]


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    for slide in range(6):
        for tile in range(3):
            _write(tmp_path, f"slide{slide}_{tile}", _ids(1))
    source = _open(tmp_path, dividing=Dividing(val=0.4, group_by=r"^(slide\d)_"))
    sides = {(sample.key.split("_")[0], sample.split) for sample in source.samples()}
    assert len(sides) == 6
    assert {split for _, split in sides} == {"train", "val"}


def test_an_image_s_number_and_name_do_not_depend_on_the_others(tmp_path: Path) -> None:
    _write(tmp_path, "sub/b", _ids(1), "jpg")
    alone = _open(tmp_path).load(_open(tmp_path).samples()[0])
    _write(tmp_path, "sub/a", _ids(1))
    first, second = (_open(tmp_path).load(sample) for sample in _open(tmp_path).samples())
    assert (second.file_name, second.image_id) == (alone.file_name, alone.image_id) == ("sub/b.jpg", alone.image_id)
    assert first.image_id != second.image_id


def _cityscapes(root: Path, split: str, city: str, ids: NDArray[np.generic]) -> None:
    frame = f"{split}/{city}/{city}_000000_000019"
    files: dict[str, NDArray[np.generic]] = {f"leftImg8bit/{frame}_leftImg8bit.png": picture(6, 8)}
    files |= {f"gtFine/{frame}_gtFine_{kind}.png": np.zeros((6, 8), np.uint8) for kind in ("labelIds", "color")}
    files[f"gtFine/{frame}_gtFine_instanceIds.png"] = ids
    for name, array in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / name)
    (root / f"gtFine/{frame}_gtFine_polygons.json").write_text("{}")


class TestCityscapes:
    def test_evaluated_classes_are_objects_groups_crowds_and_the_rest_background(self, tmp_path: Path) -> None:
        _cityscapes(tmp_path, "train", "aachen", _ids(7, 24000, 26, 29001, 30000, 31000, 33017, 23))
        source = CityscapesInstances(root=tmp_path)
        names = [(source.class_names[class_id], crowd) for _, class_id, crowd in _objects(source)]
        assert names == [("car", True), ("person", False), ("train", False), ("bicycle", False)]

    def test_classes_have_the_label_ids_of_cityscapes(self) -> None:
        found = dict(zip(CityscapesInstances.category_ids, CityscapesInstances.class_names, strict=True))
        assert (found[25], found[27], found[28], found[32]) == ("rider", "truck", "bus", "motorcycle")
        assert len(found) == 8

    def test_train_and_val_are_packed_and_test_is_not(self, tmp_path: Path) -> None:
        for split, city in (("train", "aachen"), ("val", "lindau"), ("test", "berlin")):
            _cityscapes(tmp_path, split, city, _ids(26000))
        pack(CityscapesInstances(root=tmp_path), tmp_path / "out")
        manifest = load_manifest(open_storage(tmp_path / "out"))
        assert {name: split.num_samples for name, split in manifest.splits.items()} == {"train": 1, "val": 1}
        assert manifest.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)

    def test_results_name_an_image_by_its_path(self, tmp_path: Path) -> None:
        _cityscapes(tmp_path, "val", "lindau", _ids(26000))
        source = CityscapesInstances(root=tmp_path)
        (sample,) = source.samples()
        assert sample.key == "lindau/lindau_000000_000019"
        assert source.load(sample).file_name == "val/lindau/lindau_000000_000019_leftImg8bit.png"

    def test_another_label_with_objects_is_refused(self, tmp_path: Path) -> None:
        _cityscapes(tmp_path, "train", "aachen", _ids(11000))
        with pytest.raises(DataError, match=r"gtFine_instanceIds\.png: value 11000 at \(x=0, y=1\)"):
            pack(CityscapesInstances(root=tmp_path), tmp_path / "out")

    def test_an_image_without_ids_is_named(self, tmp_path: Path) -> None:
        for city in ("aachen", "bremen"):
            _cityscapes(tmp_path, "train", city, _ids(26000))
        next((tmp_path / "gtFine/train/bremen").glob("*_instanceIds.png")).unlink()
        with pytest.raises(DataError, match=r"no mask in .*gtFine/train for .*bremen_000000_000019_leftImg8bit\.png"):
            CityscapesInstances(root=tmp_path).samples()

    def test_another_folder_is_told_so(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds neither leftImg8bit/train nor leftImg8bit/val; is this Cityscapes"):
            CityscapesInstances(root=tmp_path).samples()
