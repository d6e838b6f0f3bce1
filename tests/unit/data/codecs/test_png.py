"""Masks as PNGs that we write ourselves, and JPEGs that are kept: libraries read what was written."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from dist_seg.data.codecs.headers import read_header
from dist_seg.data.codecs.png import encode_grey, value_counts
from dist_seg.data.raw.images import check_image
from dist_seg.errors import DataError

from ..raw_data import encoded, picture


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@given(data=st.data())
def test_pillow_reads_what_was_written(dtype: type, data: st.DataObject) -> None:
    shape = npst.array_shapes(min_dims=2, max_dims=2, max_side=40)
    mask = data.draw(npst.arrays(dtype, shape))
    png = encode_grey(mask)
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == ("L" if dtype is np.uint8 else "I;16")
        assert np.array_equal(np.asarray(image), mask)
    header = read_header(png)
    assert (header.height, header.width, header.bits) == (*mask.shape, 8 * mask.itemsize)
    assert header.is_plain_grey


@pytest.mark.parametrize("turned", [lambda mask: mask[::-1], lambda mask: mask.T, lambda mask: mask[::2, 1::3]])
def test_a_view_is_written_as_it_looks(turned: object) -> None:
    mask = turned(picture(30, 41)[..., 0])  # type: ignore[operator]  # one of the functions above
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_grey(mask)))), mask)


def test_torchvision_reads_it_too() -> None:
    io_library = pytest.importorskip("torchvision.io")
    torch = pytest.importorskip("torch")
    mask = picture(30, 41)[..., 0]
    data = torch.frombuffer(bytearray(encode_grey(mask)), dtype=torch.uint8)
    assert np.array_equal(io_library.decode_png(data).numpy()[0], mask)


@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=30)))
def test_values_are_counted_as_numpy_counts_them(mask: np.ndarray) -> None:
    assert np.array_equal(value_counts(mask), np.bincount(mask.ravel(), minlength=256))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=["4:2:0", "4:4:4", "scans"])
def test_no_damaged_jpeg_passes_that_cannot_be_decoded_in_colour(options: dict[str, object]) -> None:
    """Packing decodes a JPEG without its colours, which must find all faults that decoding with colours finds."""
    whole = encoded(Image.fromarray(picture(48, 64)), "JPEG", quality=80, **options)
    assert check_image(whole, "x").data == whole
    chance = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(2, len(whole))] = chance.randrange(256)
        data = bytes(damaged[: chance.choice([len(whole), chance.randrange(100, len(whole))])])
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                image.load()
        except Exception:  # whatever the decoder raises
            refused += 1
            with pytest.raises(DataError, match="x: "):
                check_image(data, "x")
    assert refused > 20
