"""A reader of the user's own, by its dotted path."""

from pathlib import Path

import pytest

from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import load_source
from dist_seg.errors import DataError, UserError

_READER = """
from dataclasses import dataclass
import numpy as np
from dist_seg.data.raw.source import RawSample, SampleRef
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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("stripes_reader", "write it as package.module:function"),
        ("no_such_package:f", "cannot import no_such_package"),
        ("stripes_reader:nothing", "has no function nothing"),
        ("stripes_reader:broken", "a int, lacks class_names"),
        ("stripes_reader:unlisted", "a Unlisted, lacks category_ids"),
    ],
)
def test_a_path_that_is_wrong_is_explained(module: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_source(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1", "2"], r"takes \(count='2'\) and was given \['1', '2'\]: too many positional arguments"),
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
