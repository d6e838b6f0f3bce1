"""The protocol of raw data sets, and readers of the user's own found by their dotted path."""

from dataclasses import replace
from pathlib import Path

import pytest

from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawSample, SampleRef, StrayAnnotationsError, load_sample, load_source
from dist_seg.errors import DataError, StorageError, UserError

_READER = """
from dataclasses import dataclass
import numpy as np
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.raw.source import RawInstances, RawSample, SampleRef, StrayAnnotationsError
from dist_seg.errors import DataError
from dist_seg.masks.rle import encode_masks
from dist_seg.data.raw.images import encode_image

@dataclass
class Stripes:
    count: int
    class_names = ("dark", "light")
    palette = ((0, 0, 0), (255, 255, 255))
    ignore_index = 255

    def samples(self):
        return [SampleRef(key=f"s{i}", split="train", where=f"stripes {i}") for i in range(self.count)]

    def load(self, sample):
        mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2
        return RawSample(image=encode_image(mask * 255, "png"), mask=mask)

def make_source(count="2"):
    return Stripes(int(count))

def broken():
    return 3

def closure():
    source = Stripes(2)
    source.hook = lambda: None
    return source

class OneWay(Stripes):
    def __setstate__(self, state):
        raise RuntimeError("not twice")

class Unlisted(Stripes):
    task = "instance"

def unlisted():
    return Unlisted(2)

class Squares:
    task = "instance"
    class_names = ("square",)
    category_ids = (7,)
    palette = ((255, 0, 0),)
    ignore_index = 255

    def samples(self):
        return [SampleRef(key=k, split="train", where=k, payload=k.encode()) for k in ("good", "stray", "bad")]

    def load(self, sample):
        match sample.payload:
            case b"stray":
                raise StrayAnnotationsError("two annotations of no image", 2)
            case b"bad":
                raise DataError("bad is bad")
        (rle, _), = encode_masks(np.eye(8, dtype=bool)[None])
        square = RawObject(id=1, class_id=0, crowd=False, rle=rle)
        image = encode_image(np.zeros((8, 8), np.uint8), "png")
        return RawInstances(image=image, objects=(square,), height=8, width=8, image_id=1, file_name="good.png")

def one_way():
    return OneWay(2)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stripes_reader.py").write_text(_READER)
    monkeypatch.syspath_prepend(tmp_path)
    return "stripes_reader"


def test_is_packed_like_the_built_in_ones(module: str, tmp_path: Path) -> None:
    result = pack(load_source(f"{module}:make_source", ["3"]), tmp_path / "out")
    assert result.manifest.splits["train"].class_pixels == (96, 96)


def test_a_reader_that_was_written_for_an_earlier_version_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = "from dist_seg.data.raw.source import RawInstances, RawSample, SampleRef, StrayAnnotationsError"
    objects = "from dist_seg.data.codecs.object_layers import RawObject"
    assert imports in _READER and objects in _READER
    text = _READER.replace("dist_seg.data.raw.source", "dist_seg.data.formats")
    text = text.replace("dist_seg.data.codecs.object_layers", "dist_seg.data.formats")
    (tmp_path / "earlier_reader.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    pack(load_source("earlier_reader:make_source", ["3"]), tmp_path / "stripes")
    pack(load_source("earlier_reader:Squares"), tmp_path / "squares", PackOptions(skip_bad=True))


def test_a_reader_of_instances_needs_nothing_but_what_its_protocol_says(module: str, tmp_path: Path) -> None:
    result = pack(load_source(f"{module}:Squares"), tmp_path / "out", PackOptions(skip_bad=True))
    split = result.manifest.splits["train"]
    assert (split.num_samples, split.skipped_samples) == (1, 1)
    assert split.objects is not None and split.objects.skipped_annotations == 2


class TestLoadSample:
    """The error that each fault of a sample becomes."""

    def test_a_listed_fault_is_never_loaded(self) -> None:
        class Source:
            def load(self, sample: SampleRef) -> RawSample:
                raise AssertionError

        ref = SampleRef(key="a", split="train", where="a.png", fault="a.png: is broken")
        with pytest.raises(DataError, match=r"a\.png: is broken"):
            load_sample(Source(), ref)
        with pytest.raises(StrayAnnotationsError) as caught:
            load_sample(Source(), replace(ref, stray_annotations=3))
        assert caught.value.count == 3

    def test_a_file_that_cannot_be_read_is_a_storage_error(self) -> None:
        class Source:
            def load(self, sample: SampleRef) -> RawSample:
                raise OSError(5, "input/output error")

        with pytest.raises(StorageError, match=r"a\.png: cannot be read: input/output error"):
            load_sample(Source(), SampleRef(key="a", split="train", where="a.png"))

    def test_an_error_of_the_reader_itself_names_the_sample(self) -> None:
        class Source:
            def load(self, sample: SampleRef) -> RawSample:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as caught:
            load_sample(Source(), SampleRef(key="a", split="train", where="a.png"))
        assert caught.value.__notes__ == ["The data set's reader failed on a.png."]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("stripes_reader", "is not of the form package.module:function"),
        ("no_such_package:f", "cannot import no_such_package"),
        ("stripes_reader:nothing", "stripes_reader has no function nothing"),
        ("stripes_reader:broken", "returned a int, which lacks class_names"),
        ("stripes_reader:unlisted", "returned a Unlisted, which lacks category_ids"),
    ],
)
def test_a_path_that_is_wrong_is_explained(module: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_source(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1", "2"], r"takes \(count='2'\), but was given \['1', '2'\]: too many positional arguments"),
        (["three"], r"called with \['three'\], failed at .*stripes_reader\.py:\d+: ValueError: invalid literal"),
    ],
)
def test_arguments_that_are_wrong_are_explained(module: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_source(f"{module}:make_source", arguments)


@pytest.mark.parametrize(("function", "name"), [("closure", "Stripes"), ("one_way", "OneWay")])
def test_a_reader_that_cannot_be_pickled_is_explained(module: str, tmp_path: Path, function: str, name: str) -> None:
    source = load_source(f"{module}:{function}")
    with pytest.raises(UserError, match=rf"a {name}, cannot be sent to worker processes: .*--workers 1"):
        pack(source, tmp_path / "out", PackOptions(workers=2, shard_bytes=1))
    assert pack(source, tmp_path / "out", PackOptions(workers=1, shard_bytes=1)).written_shards == 2


@pytest.mark.parametrize("ignore_index", [-1, 0, 1, 256, 300, None, "255", True, 255.0])
def test_an_ignore_index_that_no_mask_could_hold_is_refused_before_anything_is_done(
    module: str, tmp_path: Path, ignore_index: object
) -> None:
    source = load_source(f"{module}:make_source")
    source.ignore_index = ignore_index  # type: ignore[misc, assignment]  # a reader may be anything
    with pytest.raises(DataError, match=rf"ignore_index is {ignore_index!r} with 2 classes.*from 2 to 255"):
        pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ignore_index_next_to_the_classes_is_accepted(module: str, tmp_path: Path) -> None:
    source = load_source(f"{module}:make_source")
    source.ignore_index = 2  # type: ignore[misc]  # a reader may be anything
    assert pack(source, tmp_path / "out").manifest.ignore_index == 2
