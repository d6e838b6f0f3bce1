"""A reader of the user's own, by its dotted path."""

from pathlib import Path

import pytest

from dist_seg.data.formats import load_source
from dist_seg.data.pack import pack
from dist_seg.errors import UserError

_READER = """
from dataclasses import dataclass
import numpy as np
from dist_seg.data.formats import RawSample, SampleRef
from dist_seg.data.formats.images import encode_image

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
    ],
)
def test_a_path_that_is_wrong_is_explained(module: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_source(path)
