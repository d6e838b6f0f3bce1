"""Images of 16 bits, many channels or pages: pixels are read exactly, or the file is refused by name."""

import contextlib
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dist_seg.data.codecs.npy import Values, decode_npy
from dist_seg.data.raw.array_images import read_array
from dist_seg.data.raw.images import CheckedImage, check_image
from dist_seg.errors import DataError, UserError
from tests.array_cases import Array, noise, png, tiff

from ..raw_data import encoded

tifffile = pytest.importorskip("tifffile", reason="needs tifffile (the tiff extra)")
imagecodecs = pytest.importorskip("imagecodecs", reason="needs imagecodecs (the tiff extra)")

_LAYOUTS: dict[str, dict[str, object]] = {
    "interleaved": {},
    "planes": {"planar": True},
    "pages": {"pages": True},
    "tiles": {"tile": (16, 16)},
    "tiled planes": {"planar": True, "tile": (16, 16)},
    "strips": {"rowsperstrip": 7},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
}


def _array(checked: CheckedImage) -> Values:
    assert checked.array is not None and checked.suffix == "npy"
    return decode_npy(checked.data, checked.array, checked.height, checked.width)


@given(
    dtype=st.sampled_from(["uint8", "uint16"]),
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    layout=st.sampled_from(list(_LAYOUTS)),
    compression=st.sampled_from([None, "lzw", "zlib", "packbits", "zstd"]),
    predictor=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=80, deadline=None)
def test_every_kind_of_tiff_gives_its_pixels(
    dtype: str, channels: int, size: tuple[int, int], layout: str, compression: str | None, predictor: bool, seed: int
) -> None:
    values = noise(dtype, channels, *size, seed=seed)
    predictor = predictor and compression in ("lzw", "zlib", "zstd")
    data = tiff(values, compression=compression, predictor=predictor, **_LAYOUTS[layout])
    checked = check_image(data, "x")
    if channels == 1 and dtype == "uint8":
        assert checked.suffix == "png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(checked.data))), values[..., 0])
        return
    assert np.array_equal(_array(checked), values)
    assert np.array_equal(np.load(io.BytesIO(checked.data), allow_pickle=False), values)


@given(channels=st.sampled_from([1, 3]), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(deadline=None)
def test_pngs_of_16_bits_give_their_pixels(channels: int, height: int, width: int) -> None:
    values = noise("uint16", channels, height, width)
    assert np.array_equal(_array(check_image(png(values), "x")), values)


def test_tiffs_of_8_bit_rgb_stay_pictures() -> None:
    values = noise("uint8", 3)
    for data in (
        tiff(values, photometric="rgb"),
        tiff(values, photometric="rgb", planar=True),
        tiff(values, photometric="rgb", compression="lzw"),
    ):
        checked = check_image(data, "x")
        assert checked.suffix == "png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(checked.data))), values)


def test_a_tiff_with_smaller_copies_of_itself_is_one_picture() -> None:
    values = noise("uint8", 3, 32, 32)
    for dtype, suffix in (("uint8", "png"), ("uint16", "npy")):
        values = noise(dtype, 3, 32, 32)
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            writer.write(values, photometric="rgb", metadata=None)
            writer.write(values[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        checked = check_image(file.getvalue(), "x")
        assert (checked.suffix, checked.height) == (suffix, 32)
        found = np.asarray(Image.open(io.BytesIO(checked.data))) if suffix == "png" else _array(checked)
        assert np.array_equal(found, values)


def test_jpeg_in_a_tiff_of_pages_is_decoded() -> None:
    y, x = np.mgrid[:32, :48].astype(np.uint8)
    values = np.dstack([5 * x, 7 * y, 3 * x + 2 * y, 255 - x])
    found = _array(check_image(tiff(values, pages=True, compression="jpeg", compressionargs={"level": 95}), "x"))
    assert found.shape == values.shape
    assert np.abs(found.astype(int) - values).mean() < 3


class TestAlpha:
    """Alpha is dropped if it is opaque everywhere and refused otherwise. A channel of data is kept."""

    @pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
    def test_an_opaque_alpha_channel_of_a_tiff_is_dropped(self, kind: str) -> None:
        values = noise("uint16", 4)
        values[..., 3] = 65535
        data = tiff(values, photometric="rgb", extrasamples=[kind])
        assert np.array_equal(_array(check_image(data, "x")), values[..., :3])

    @pytest.mark.parametrize("form", ["tiff", "png"])
    def test_one_that_is_not_is_refused(self, form: str) -> None:
        values = noise("uint16", 4)
        values[..., 3] = 65535
        values[3, 4, 3] = 65534
        data = png(values) if form == "png" else tiff(values, photometric="rgb", extrasamples=["unassalpha"])
        with pytest.raises(DataError, match=r"a/b\.tif: has transparent pixels, for example at \(x=4, y=3\): chann"):
            check_image(data, "a/b.tif")

    def test_an_opaque_alpha_channel_of_a_png_is_dropped(self) -> None:
        for channels in (2, 4):
            values = noise("uint16", channels)
            values[..., -1] = 65535
            assert np.array_equal(_array(check_image(png(values), "x")), values[..., :-1])

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_an_unspecified_channel_is_data(self, dtype: str) -> None:
        values = noise(dtype, 4)
        data = tiff(values, photometric="rgb", extrasamples=["unspecified"])
        assert np.array_equal(_array(check_image(data, "x")), values)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_colour_of_a_png_that_stands_for_transparent(self, channels: int) -> None:
        values = noise("uint16", channels)
        values[values == 7] = 8
        plain = png(values)
        with_chunk = _with_chunk(plain, b"tRNS", struct.pack(f">{channels}H", *[7] * channels))
        assert np.array_equal(_array(check_image(with_chunk, "x")), values)
        values[2, 1] = 7
        with pytest.raises(DataError, match=r"transparent pixels, for example at \(x=1, y=2\)"):
            check_image(_with_chunk(png(values), b"tRNS", struct.pack(f">{channels}H", *[7] * channels)), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["tiff", "png"])
def test_orientations_are_baked_in(orientation: int, form: str) -> None:
    values = noise("uint16", 3)
    picture = Image.fromarray((values >> 8).astype(np.uint8))
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    if form == "tiff":
        data = tiff(values, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = _with_chunk(png(values), b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert np.array_equal(_array(check_image(data, "x")) >> 8, expected)


def _refused() -> dict[str, tuple[bytes, str]]:
    grey, deep = noise("uint8", 1), noise("uint16", 1)
    two_sizes, two_types, with_mask = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tifffile.TiffWriter(two_sizes) as writer:
        writer.write(deep[..., 0], metadata=None)
        writer.write(deep[:10, :, 0], metadata=None)
    with tifffile.TiffWriter(two_types) as writer:
        writer.write(deep[..., 0], metadata=None)
        writer.write(grey[..., 0], metadata=None)
    with tifffile.TiffWriter(with_mask) as writer:
        writer.write(deep[..., 0], metadata=None)
        writer.write(grey[..., 0] > 100, metadata=None, subfiletype=4)
    shorter = io.BytesIO()
    tifffile.imwrite(shorter, noise("uint16", 5).transpose(2, 0, 1).copy(), photometric="minisblack", truncate=True)
    pages = noise("uint8", 4)
    return {
        "other size": (two_sizes.getvalue(), "page 2 has 30x10 pixels of uint16, the first 30x20 of uint16"),
        "other type": (two_types.getvalue(), "page 2 has 30x20 pixels of uint8, the first 30x20 of uint16"),
        "mask": (with_mask.getvalue(), "a page that masks transparent pixels"),
        "unlisted pages": (shorter.getvalue(), "holds more pages than it lists"),
        "float": (tiff(deep.astype(np.float32)), "32-bit values of type float32; .* save them as uint16"),
        "half": (tiff(deep.astype(np.float16)), "16-bit values of type float16"),
        "32 bits": (tiff(deep.astype(np.uint32)), "32-bit values of type uint32"),
        "signed": (tiff(deep.astype(np.int16)), "16-bit values of type int16"),
        "signed 8": (tiff(grey.astype(np.int8)), "8-bit values of type int8"),
        "bilevel pages": (tiff(pages > 100, pages=True), "page 1: has 1 bit a pixel"),
        "white is 0": (tiff(deep, photometric="miniswhite"), "uses 0 for white"),
        "CMYK": (tiff(noise("uint16", 4), photometric="separated"), "is CMYK; convert it to RGB"),
        "palette": (
            tiff(deep, photometric="palette", colormap=np.zeros((3, 65536), np.uint16)),
            "has a palette; save it as RGB",
        ),
        "palette pages": (
            tiff(noise("uint8", 2), pages=True, photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
            "page 1: has a palette",
        ),
        "Lab": (tiff(noise("uint16", 3), photometric="cielab"), "has CIELAB colours"),
        "JPEG 2000": (tiff(deep, compression="jpeg2000"), "compressed by JPEG2000; save it with LZW"),
        "predictor": (tiff(deep, compression="packbits", predictor=True), "a predictor"),
        "predictor of a picture": (tiff(grey, compression="packbits", predictor=True), "a predictor"),
        "no pixels": (tiff(deep)[:100], "cannot be decoded"),
        "not a TIFF": (b"II*\0" + bytes(50), "is not an image"),
        "damaged PNG": (png(noise("uint16", 3))[:-30], "cannot be decoded"),
    }


@pytest.mark.parametrize("name", list(_refused()))
def test_what_is_refused_is_named_with_the_reason(name: str) -> None:
    data, reason = _refused()[name]
    with pytest.raises(DataError, match=rf"a/b\.tif[:,] (.*{reason})"):
        check_image(data, "a/b.tif")


class TestBombs:
    """A file that claims more than is allowed is not decoded."""

    def test_pixels_and_channels_have_limits(self) -> None:
        wide = tiff(noise("uint16", 5))
        assert check_image(wide, "x", max_pixels=750).width == 30
        with pytest.raises(DataError, match="30x20 pixels are more than the allowed 599"):
            check_image(wide, "x", max_pixels=599)
        with pytest.raises(DataError, match="30x20 pixels of 5 channels are more than 4 times the allowed 749 values"):
            check_image(wide, "x", max_pixels=749)
        with pytest.raises(DataError, match="has 257 channels; an image may have at most 256"):
            check_image(tiff(noise("uint8", 257, 2, 2), pages=True), "x")
        with pytest.raises(DataError, match="30x20 pixels are more than the allowed 599"):
            check_image(png(noise("uint16", 3)), "x", max_pixels=599)
        with pytest.raises(DataError, match="30x20 pixels are more than the allowed 599"):
            check_image(noise("uint16", 3), "x", max_pixels=599)

    @pytest.mark.parametrize(("compression", "packed"), [("zlib", zlib.compress(bytes(10**7))), ("packbits", None)])
    def test_a_strip_that_expands_to_more_than_its_page_is_refused(
        self, compression: str, packed: bytes | None
    ) -> None:
        data = bytearray(tiff(noise("uint16", 2), pages=True, compression=compression))
        packed = packed or imagecodecs.packbits_encode(bytes(10**5))
        page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0]
        struct.pack_into("<I", data, page.tags["StripOffsets"].valueoffset, len(data))
        struct.pack_into("<I", data, page.tags["StripByteCounts"].valueoffset, len(packed))
        with pytest.raises(DataError, match="cannot be decoded"):
            check_image(bytes(data) + packed, "x")


@given(st.sampled_from(["interleaved", "pages", "tiles"]), st.sampled_from([None, "lzw", "zlib"]), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_tiff_that_is_cut_off_never_gives_other_pixels(layout: str, compression: str | None, share: float) -> None:
    values = noise("uint16", 4)
    data = tiff(values, compression=compression, **_LAYOUTS[layout])
    with contextlib.suppress(DataError):
        assert np.array_equal(_array(check_image(data[: int(share * len(data))], "x")), values)


_SEEDS = [
    tiff(noise("uint16", 4)),
    tiff(noise("uint16", 3), pages=True, compression="lzw"),
    tiff(noise("uint8", 5), compression="zlib", tile=(16, 16)),
    tiff(noise("uint8", 4), pages=True, compression="jpeg"),
    png(noise("uint16", 3)),
    png(noise("uint16", 1)),
]


@given(st.sampled_from(_SEEDS), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_read_or_refused_and_nothing_else(data: bytes, changes: list[tuple[float, int]]) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[int(position**3 * len(damaged))] = value  # more often in headers than in pixels
    with contextlib.suppress(DataError):
        read_array(bytes(damaged), "x", 10_000)


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (noise("uint8", 3), "png"),
        (noise("uint8", 1), "png"),
        (noise("uint8", 1)[..., 0], "png"),
        (noise("uint8", 4), "npy"),
        (noise("uint16", 1)[..., 0], "npy"),
        (noise("uint16", 3)[::-1], "npy"),
        (noise("uint16", 2).astype(">u2"), "npy"),
    ],
)
def test_arrays_of_a_reader_keep_their_pixels(values: Array, suffix: str) -> None:
    checked = check_image(values, "x")
    assert checked.suffix == suffix
    found = np.asarray(Image.open(io.BytesIO(checked.data))) if suffix == "png" else _array(checked)
    assert np.array_equal(found.squeeze(), values.squeeze())


@pytest.mark.parametrize("values", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.int32), np.zeros((0, 2), np.uint8)])
def test_other_arrays_are_refused_with_their_shape_and_type(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=rf"x: the reader gave an image of shape .* and type {values.dtype}"):
        check_image(values, "x")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    deep, color = tiff(noise("uint16", 2)), png(noise("uint16", 3))
    grey = encoded(Image.fromarray(noise("uint16", 1)[..., 0]), "PNG")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for data in (deep, color):
        with pytest.raises(UserError, match=r"pip install 'dist-seg\[tiff\]'") as raised:
            check_image(data, "x")
        assert not isinstance(raised.value, DataError)  # otherwise --skip-bad would leave out every image
    assert np.array_equal(_array(check_image(grey, "x")), noise("uint16", 1))
    assert check_image(encoded(Image.fromarray(noise("uint8", 3)), "TIFF"), "x").suffix == "png"


def _with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """The PNG with another chunk before its pixels."""
    at = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:at] + chunk + data[at:]
