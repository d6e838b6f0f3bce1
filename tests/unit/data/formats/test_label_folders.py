"""A folder of masks for every class, and layers made from objects: packed exactly, with mistakes named."""

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.label_layers import decode_labels
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.label_folders import LabelFolders, open_label_folders
from dist_seg.data.formats.synthetic import SyntheticLabels, SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.object_labels import ObjectLabels
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.verify import verify
from dist_seg.data.view.data_view import whole_view
from dist_seg.data.view.reader import ShardReader
from dist_seg.errors import DataError, UserError
from dist_seg.storage.object_store import open_storage

from ..coco_data import annotation, square, write_coco
from ..raw_data import picture

HEIGHT, WIDTH = 20, 30


def write_labels(root: Path, stem: str, masks: dict[str, NDArray[np.integer]]) -> None:
    """Write `root/images/STEM.png` and `root/masks/CLASS/STEM.png`."""
    image = root / "images" / f"{stem}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(HEIGHT, WIDTH)).save(image)
    for name, mask in masks.items():
        file = root / "masks" / name / f"{stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(file)


def box(top: int, left: int, bottom: int, right: int, value: int = 1) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = value
    return mask


def opened(root: Path, *, dividing: Dividing = Dividing(val=0.0), **options: object) -> LabelFolders:
    return open_label_folders(root / "images", root / "masks", dividing=dividing, **options)  # type: ignore[arg-type]


def packed(out: Path) -> dict[str, NDArray[np.uint8]]:
    """The layers of every sample of the split `train`."""
    storage = open_storage(out)
    manifest = load_manifest(storage)
    reader = ShardReader(whole_view(storage, manifest), "train")
    found = (reader.read(0, i) for i in range(reader.shard_samples[0]))
    return {sample.key: decode_labels(sample.target, manifest.num_classes) for sample in found}


def test_layers_overlap_and_are_counted_by_class(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", {"wet": box(0, 0, 10, 10, 255), "road": box(5, 5, 20, 30)})
    write_labels(tmp_path, "b", {"wet": box(0, 0, 0, 0), "road": box(0, 0, 20, 30, 255)})
    result = pack(opened(tmp_path), tmp_path / "out")
    layers = packed(tmp_path / "out")
    assert result.manifest.task == "multilabel"
    assert result.manifest.class_names == ("road", "wet")
    assert result.manifest.splits["train"].class_pixels == (15 * 25 + 600, 100)
    assert np.array_equal(layers["a"], np.stack([box(5, 5, 20, 30), box(0, 0, 10, 10)]))
    assert np.array_equal(layers["b"], np.stack([box(0, 0, 20, 30), box(0, 0, 0, 0)]))
    assert verify(tmp_path / "out") == []


def test_pixels_that_are_not_known_are_ignored(tmp_path: Path) -> None:
    unsure = np.maximum(box(0, 0, 10, 10), box(10, 0, 12, 10, 255))
    write_labels(tmp_path, "a", {"wet": unsure})
    with pytest.raises(DataError, match=r"255 at \(x=0, y=10\).*--unknown"):
        pack(opened(tmp_path), tmp_path / "out")
    result = pack(opened(tmp_path, unknown=255), tmp_path / "out")
    assert (result.manifest.splits["train"].class_pixels, result.manifest.splits["train"].ignored_pixels) == (
        (100,),
        20,
    )
    assert np.array_equal(packed(tmp_path / "out")["a"][0], unsure)


def test_a_missing_mask_is_an_error_unless_it_means_absence(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", {"wet": box(0, 0, 4, 4), "road": box(0, 0, 4, 4)})
    write_labels(tmp_path, "b", {"wet": box(0, 0, 4, 4)})
    with pytest.raises(DataError, match=r"no mask in .*road for .*b\.png.*--missing-is-absent"):
        opened(tmp_path)
    source = opened(tmp_path, missing_is_absent=True)
    assert any("1 mask missing" in note for note in source.notes)
    pack(source, tmp_path / "out")
    assert not packed(tmp_path / "out")["b"][0].any()
    skipped = pack(
        opened(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "skipped", PackOptions(skip_bad=True)
    )
    assert [str(refusal) for refusal in skipped.skipped] == [f"{tmp_path / 'images' / 'b.png'}: has no mask for road"]


def test_classes_keep_the_order_of_their_file(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", {"wet": box(0, 0, 4, 4), "road": box(0, 0, 8, 8), "draft": box(0, 0, 1, 1)})
    (tmp_path / "masks" / "classes.txt").write_text("wet\nroad\n")
    source = opened(tmp_path)
    assert source.class_names == ("wet", "road")
    assert any("no class is named after: draft" in note for note in source.notes)
    (tmp_path / "masks" / "classes.txt").write_text("wet\nroof\n")
    with pytest.raises(DataError, match=r"no folder for the class 'roof'.*draft, road, wet"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"wet": box(0, 0, 4, 4, 3)}, r"wet.a\.png: 3 at \(x=0, y=0\)"),
        ({"wet": box(0, 0, 4, 4), "road": np.zeros((HEIGHT, WIDTH + 1))}, "they must have the same size"),
        ({"wet": np.zeros((HEIGHT, WIDTH + 1))}, "the mask is 31x20.*its image .* 30x20"),
        ({"wet": np.dstack([box(0, 0, 4, 4, 9), box(0, 0, 4, 4), box(0, 0, 4, 4)])}, "a mask in colours"),
    ],
)
def test_masks_that_cannot_be_are_named(tmp_path: Path, masks: dict[str, NDArray[np.integer]], message: str) -> None:
    write_labels(tmp_path, "a", masks)
    with pytest.raises(DataError, match=message):
        pack(opened(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("stem", ["b", "train/b"])
def test_a_mask_without_an_image_is_an_error_or_left_out_and_counted(tmp_path: Path, stem: str) -> None:
    for there in ("train/a", "val/a"):
        write_labels(tmp_path, there, {"wet": box(0, 0, 4, 4), "road": box(0, 0, 4, 4)})
    write_labels(tmp_path, stem, {"wet": box(0, 0, 1, 1), "road": box(0, 0, 1, 1)})
    (tmp_path / "images" / f"{stem}.png").unlink()
    with pytest.raises(DataError, match=r"no image for .*b\.png"):
        opened(tmp_path)
    result = pack(opened(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
    lone = tmp_path / "masks" / "road" / f"{stem}.png"
    assert [str(refusal) for refusal in result.skipped] == [f"{lone}: a mask that has no image"]
    splits = result.manifest.splits
    assert {name: (split.num_samples, split.skipped_samples) for name, split in splits.items()} == {
        "train": (1, 1),
        "val": (1, 0),
    }


def test_a_class_without_any_mask_is_absent_everywhere_where_missing_means_that(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", {"wet": box(0, 0, 4, 4)})
    (tmp_path / "masks" / "road").mkdir()
    with pytest.raises(DataError, match="road: holds no images"):
        opened(tmp_path)
    source = opened(tmp_path, missing_is_absent=True)
    assert source.notes[1:] == (
        f"{tmp_path / 'masks' / 'road'} holds no masks, so the class is taken to be in no image",
    )
    pack(source, tmp_path / "out")
    assert np.array_equal(packed(tmp_path / "out")["a"], np.stack([box(0, 0, 0, 0), box(0, 0, 4, 4)]))


@pytest.mark.parametrize("unknown", [-1, 256])
def test_a_number_of_unknown_pixels_that_no_mask_can_hold_is_refused(tmp_path: Path, unknown: int) -> None:
    write_labels(tmp_path, "a", {"wet": box(0, 0, 4, 4)})
    with pytest.raises(UserError, match=rf"^--unknown {unknown}: .* 0 to 255$"):
        opened(tmp_path, unknown=unknown)


@pytest.mark.parametrize(("of_folder", "of_file"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_class_is_the_same_in_both_spellings_of_unicode(tmp_path: Path, of_folder: str, of_file: str) -> None:
    name = unicodedata.normalize("NFC", "Gebäude")
    write_labels(tmp_path, "a", {unicodedata.normalize(of_folder, name): box(0, 0, 4, 4)})  # type: ignore[arg-type]
    (tmp_path / "classes.txt").write_text(unicodedata.normalize(of_file, name))  # type: ignore[arg-type]
    assert pack(opened(tmp_path), tmp_path / "out").manifest.class_names == (name,)
    assert packed(tmp_path / "out")["a"].sum() == 16


def test_a_changed_mask_of_any_class_is_packed_anew(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", {"wet": box(0, 0, 4, 4), "road": box(0, 0, 8, 8)})
    pack(opened(tmp_path), tmp_path / "out")
    Image.fromarray(box(0, 0, 9, 9)).save(tmp_path / "masks" / "wet" / "a.png")
    assert pack(opened(tmp_path), tmp_path / "out", overwrite=True).written_shards == 1
    assert packed(tmp_path / "out")["a"][1].sum() == 81


def test_objects_of_coco_become_layers_that_overlap(tmp_path: Path) -> None:
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, 40, 560]}  # two columns
    write_coco(
        tmp_path,
        [
            annotation(1),
            annotation(2, segmentation=[square(left=4)], bbox=[4, 3, 5, 5], category_id=90),
            annotation(3, segmentation=[square(left=12)], bbox=[12, 3, 5, 5]),
            annotation(4, segmentation=crowd, bbox=[0, 0, 2, 20], area=40.0, iscrowd=1, category_id=90),
        ],
    )
    pack(ObjectLabels(instances=open_coco(tmp_path, [])), tmp_path / "out")
    (cells, nuclei), *rest = packed(tmp_path / "out").values()
    assert not rest
    assert np.array_equal(cells, box(3, 2, 8, 7) | box(3, 12, 8, 17))
    assert np.array_equal(nuclei, box(3, 4, 8, 9) | box(0, 0, 20, 2))


def test_the_drawn_layers_go_on_under_what_covers_them() -> None:
    scenes = SyntheticSource(num_train=12, num_val=0, height=64, width=64)
    overlapping = 0
    for ref in scenes.samples():
        seen, whole = scenes.load(ref), SyntheticLabels(scenes=scenes).load(ref)
        assert whole.image == seen.image
        assert Image.open(io.BytesIO(whole.image)).size == (64, 64)
        for label, layer in enumerate(whole.mask):
            assert layer[seen.mask == label + 1].all()
        assert not whole.mask[:, seen.mask == 0].any()
        overlapping += int((whole.mask.sum(axis=0) > 1).sum())
    assert overlapping > 100


def test_a_missing_mask_that_was_left_out_and_now_is_absence_is_packed_anew(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", {"cat": box(0, 0, 5, 5), "dog": box(5, 5, 9, 9)})
    write_labels(tmp_path, "b", {"cat": box(0, 0, 5, 5)})
    left_out = opened(tmp_path, reading=RawReading(skip_bad=True)).samples()
    absent = opened(tmp_path, reading=RawReading(skip_bad=True), missing_is_absent=True).samples()
    assert [one.version == other.version for one, other in zip(left_out, absent, strict=True)] == [True, False]
