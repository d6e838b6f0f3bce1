"""Which raw images pass unchanged, which are converted, and which are refused."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dist_seg.data.codecs.class_ids import check_class_id_png, encode_class_ids
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.headers import UndecodableError, check_picture, read_header
from dist_seg.data.codecs.npy import check_image as check_stored_image
from dist_seg.data.codecs.npy import decode_npy
from dist_seg.data.raw.classes import read_colors
from dist_seg.data.raw.images import check_image, read_mask
from dist_seg.data.raw.pillow_limit import no_warnings, own_limit
from dist_seg.errors import DataError

from ..raw_data import encoded, picture

_RGB = picture()
_GREY = _RGB[..., 0]
_OPAQUE = np.dstack([_RGB, np.full((20, 30), 255, np.uint8)])
_SEE_THROUGH = _OPAQUE.copy()
_SEE_THROUGH[3, 4, 3] = 100


def _png(depth: int, color: int, row: bytes, width: int = 8, height: int = 2) -> bytes:
    """A PNG of equal rows, with depths that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    rows = zlib.compress((b"\0" + row) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _grey_tiff(depth: int, row: bytes, photometric: int = 1, width: int = 8, height: int = 2) -> bytes:
    """A grey TIFF of equal rows, with depths that Pillow does not write. photometric: 0 if 0 is white, else 1."""
    data = row * height
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def _oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (encoded(Image.fromarray(_RGB), "JPEG"), "jpg"),
        (encoded(Image.fromarray(_RGB), "JPEG", progressive=True), "jpg"),
        (encoded(Image.fromarray(_GREY), "JPEG"), "jpg"),
        (encoded(Image.fromarray(_RGB), "PNG"), "png"),
        (encoded(Image.fromarray(_GREY), "PNG"), "png"),
        (encoded(Image.fromarray(_RGB), "JPEG", exif=_oriented(1)), "jpg"),
        (encoded(Image.fromarray(_RGB), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), "jpg"),
        (encoded(Image.fromarray(_RGB), "MPO", save_all=True, append_images=[Image.fromarray(_RGB)]), "jpg"),
    ],
)
def test_8_bit_rgb_and_grey_keep_their_bytes(data: bytes, suffix: str) -> None:
    checked = check_image(data, "x")
    assert (checked.data, checked.suffix, checked.height, checked.width) == (data, suffix, 20, 30)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_exif_orientation_is_baked_in_without_loss(orientation: int, kind: str) -> None:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(_RGB), kind, exif=_oriented(orientation), **options)
    image = Image.fromarray(_RGB)
    image.getexif()[0x0112] = orientation
    checked = check_image(data, "x")
    assert np.array_equal(_pixels(checked.data), np.asarray(ImageOps.exif_transpose(image)))
    assert not Image.open(io.BytesIO(checked.data)).getexif()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_jpeg_stays_a_jpeg_close_to_it(orientation: int) -> None:
    y, x = np.mgrid[:32, :48]
    smooth = np.dstack([5 * x, 7 * y, 3 * x + 2 * y]).astype(np.uint8)
    checked = check_image(encoded(Image.fromarray(smooth), "JPEG", quality=95, exif=_oriented(orientation)), "x")
    turned = np.asarray(
        Image.fromarray(smooth).transpose({3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation])
    )
    assert (checked.suffix, checked.height, checked.width) == ("jpg", *turned.shape[:2])
    assert np.abs(_pixels(checked.data).astype(int) - turned).mean() < 3
    assert not Image.open(io.BytesIO(checked.data)).getexif()


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (encoded(Image.fromarray(_RGB), "BMP"), "RGB"),
        (encoded(Image.fromarray(_RGB), "TIFF"), "RGB"),
        (encoded(Image.fromarray(_OPAQUE), "PNG"), "RGB"),
        (encoded(Image.fromarray(_OPAQUE[..., [0, 3]]), "PNG"), "L"),
        (encoded(Image.fromarray(_RGB).quantize(200), "PNG"), "RGB"),
        (encoded(Image.fromarray(_GREY > 100), "PNG"), "L"),
        (encoded(Image.fromarray(_RGB).convert("CMYK"), "JPEG"), "RGB"),
    ],
)
def test_other_8_bit_images_become_png_with_the_same_pixels(data: bytes, mode: str) -> None:
    checked = check_image(data, "x")
    written = Image.open(io.BytesIO(checked.data))
    assert (checked.suffix, written.mode) == ("png", mode)
    assert np.array_equal(np.asarray(written), np.asarray(Image.open(io.BytesIO(data)).convert(mode)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.fromarray(_SEE_THROUGH), "PNG"), r"transparent pixels, for example at \(x=4, y=3\)"),
        (_png(16, 6, bytes(64)), r"transparent pixels, for example at \(x=0, y=0\)"),
        (encoded(Image.fromarray(_GREY.astype(np.float32)), "TIFF"), "32-bit values of type float32"),
        (
            encoded(Image.fromarray(_RGB), "GIF", save_all=True, append_images=[Image.fromarray(255 - _RGB)]),
            "2 pictures",
        ),
        (encoded(Image.fromarray(_RGB), "JPEG")[:500], "cannot be decoded"),
        (encoded(Image.fromarray(_RGB), "PNG")[:700], "cannot be decoded: image file is truncated"),
        (b"\xff\xd8\xff" + bytes(100), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"", "the file is empty"),
        (_png(8, 0, b"", width=65000, height=65000)[:60], "65000x65000 pixels are more than the allowed"),
    ],
)
def test_what_is_refused_is_named_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"a/b\.png: .*{reason}"):
        check_image(data, "a/b.png")


def _cut(data: bytes, part: float) -> bytes:
    """A JPEG with this part of its coded pixels, and an end marker."""
    start, end = data.index(b"\xff\xda") + 14, data.index(b"\xff\xd9", data.index(b"\xff\xda"))
    return data[: start + round(part * (end - start))] + b"\xff\xd9" + data[end + 2 :]


_LARGE = picture(200, 300)
_FORMS: dict[str, bytes] = {
    "colour": encoded(Image.fromarray(_LARGE), "JPEG"),
    "grey": encoded(Image.fromarray(_LARGE[..., 0]), "JPEG"),
    "progressive": encoded(Image.fromarray(_LARGE), "JPEG", progressive=True),
    "with restarts": encoded(Image.fromarray(_LARGE), "JPEG", restart_marker_rows=2),
    "to be turned": encoded(Image.fromarray(_LARGE), "JPEG", exif=_oriented(6)),
    "with a preview": encoded(
        Image.fromarray(_LARGE), "MPO", save_all=True, append_images=[Image.fromarray(_LARGE[:40, :40])]
    ),
    "inks": encoded(Image.fromarray(_LARGE).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", _FORMS)
def test_a_jpeg_whose_pixels_end_before_its_end_marker_is_refused(form: str, part: float) -> None:
    with pytest.raises(
        DataError, match=r"x\.jpg: (is cut off: its pixels end before|cannot be decoded: image file is truncated)"
    ):
        check_image(_cut(_FORMS[form], part), "x.jpg")


@pytest.mark.parametrize("form", _FORMS)
def test_a_jpeg_that_is_whole_is_not_cut_off(form: str) -> None:
    check_image(_FORMS[form], "x.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_a_jpeg_that_ends_in_the_grey_of_a_cut_one_is_whole(options: dict[str, object]) -> None:
    grey = _LARGE.copy()
    grey[100:] = 128
    data = encoded(Image.fromarray(grey), "JPEG", **options)
    assert check_image(data, "x.jpg").data == data


def _with_junk(jpeg: bytes) -> bytes:
    """The JPEG with junk between its first two segments."""
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:end] + b"junk" + jpeg[end:]


def _with_wrong_checksum(png: bytes, chunk: bytes) -> bytes:
    """The PNG with a wrong checksum in the last chunk of that name."""
    start = png.rindex(chunk)
    end = start + 4 + int.from_bytes(png[start - 4 : start], "big")
    return png[:end] + bytes([png[end] ^ 1]) + png[end + 1 :]


def _with_text_at_the_end(png: bytes) -> bytes:
    return png[:-12] + struct.pack(">I", 4) + b"tEXtk\0v" + b"?" * 5 + png[-12:]


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (_with_junk(encoded(Image.fromarray(_RGB), "JPEG")), "jpg"),
        (encoded(Image.fromarray(_RGB), "PNG")[:-12], "png"),
        (_with_wrong_checksum(encoded(Image.fromarray(_RGB), "PNG"), b"IEND"), "png"),
        (_with_text_at_the_end(encoded(Image.fromarray(_GREY), "PNG")), "png"),
    ],
    ids=["junk between segments", "no end", "wrong checksum of the end", "wrong checksum of a text"],
)
def test_what_training_would_reject_is_written_anew(data: bytes, suffix: str) -> None:
    with pytest.raises(UndecodableError):
        read_header(data)
    checked = check_image(data, "x")
    assert checked.suffix == suffix
    check_picture(checked.data, 20, 30)
    check_class_id_png(encode_class_ids(_GREY), 20, 30)
    assert np.abs(_pixels(checked.data).astype(int) - _pixels(data)).mean() < (3 if suffix == "jpg" else 0.001)


def test_the_limit_may_be_raised_over_pillow_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert check_image(encoded(Image.fromarray(_RGB), "PNG"), "x", max_pixels=600).width == 30
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("depth", "row", "ids"),
    [
        (1, b"\xa0", [1, 0, 1, 0, 0, 0, 0, 0]),
        (2, b"\x1b\x1b", [0, 1, 2, 3, 0, 1, 2, 3]),
        (4, b"\x01\x23\x45\x6f", [0, 1, 2, 3, 4, 5, 6, 15]),
        (8, bytes(range(8)), [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, b"".join(i.to_bytes(2, "big") for i in (0, 1, 255, 256, 1000, 2, 3, 4)), [0, 1, 255, 256, 1000, 2, 3, 4]),
    ],
)
def test_grey_masks_of_every_depth_give_the_stored_ids(depth: int, row: bytes, ids: list[int]) -> None:
    assert read_mask(_png(depth, 0, row), "x").values.tolist() == [ids, ids]


@pytest.mark.parametrize(
    ("depth", "row", "ids"),
    [
        (1, b"\x5a", [0, 1, 0, 1, 1, 0, 1, 0]),
        (2, b"\x1b\x00", [0, 1, 2, 3, 0, 0, 0, 0]),
        (4, b"\x01\x23\x45\x6f", [0, 1, 2, 3, 4, 5, 6, 15]),
        (8, bytes(range(8)), [0, 1, 2, 3, 4, 5, 6, 7]),
        (
            16,
            b"".join(i.to_bytes(2, "little") for i in (0, 1, 255, 256, 1000, 2, 3, 4)),
            [0, 1, 255, 256, 1000, 2, 3, 4],
        ),
    ],
)
def test_so_do_tiffs(depth: int, row: bytes, ids: list[int]) -> None:
    assert read_mask(_grey_tiff(depth, row), "x").values.tolist() == [ids, ids]


@pytest.mark.parametrize(("depth", "white"), [(1, 1), (2, 3), (4, 15), (8, 255), (16, 255)])
def test_what_is_shown_as_white_is_known(depth: int, white: int) -> None:
    assert read_mask(_png(depth, 0, bytes(16)), "x").white == white
    assert read_mask(_grey_tiff(depth, bytes(16)), "x").white == white


@pytest.mark.parametrize(
    ("depth", "row", "greys"),
    [
        (1, b"\x5a", [0, 255, 0, 255, 255, 0, 255, 0]),
        (2, b"\x1b\x00", [0, 85, 170, 255, 0, 0, 0, 0]),
        (4, b"\x01\x23\x45\x6f", [0, 17, 34, 51, 68, 85, 102, 255]),
    ],
)
def test_a_colour_map_reads_them_as_they_are_shown(tmp_path: Path, depth: int, row: bytes, greys: list[int]) -> None:
    data = _png(depth, 0, row)
    (tmp_path / "colors.txt").write_text("".join(f"{grey} {grey} {grey} g{grey}\n" for grey in sorted(set(greys))))
    table = read_colors(tmp_path / "colors.txt", None)
    ids = table.class_ids(read_mask(data, "x"), "x")
    assert [table.names[i] for i in ids[0]] == [f"g{grey}" for grey in _pixels(data)[0] * (255 if depth == 1 else 1)]
    assert [table.names[i] for i in ids[0]] == [f"g{grey}" for grey in greys]


@pytest.mark.parametrize(("depth", "row"), [(2, b"\x1b\x00"), (4, b"\x01\x23\x45\x6f"), (8, bytes(8)), (16, bytes(16))])
def test_tiffs_in_which_0_is_white_are_refused(depth: int, row: bytes) -> None:
    with pytest.raises(DataError, match=r"m\.tif: a mask in a TIFF in which 0 is white \(MinIsWhite\).*as PNG"):
        read_mask(_grey_tiff(depth, row, photometric=0), "m.tif")


def _tiff_of_pages(*pages: np.ndarray, reduced: int) -> bytes:
    """reduced: the declared type of pages after the first, smaller copies (1) or pages (2)."""
    images = [Image.fromarray(page) for page in pages]
    for image in images[1:]:
        image.encoderinfo = {"tiffinfo": {254: reduced}}
    return encoded(images[0], "TIFF", save_all=True, append_images=images[1:])


def test_overviews_in_a_tiff_are_no_other_masks() -> None:
    data = _tiff_of_pages(_GREY, _GREY[::2, ::2], _GREY[::4, ::4], reduced=1)
    assert np.array_equal(read_mask(data, "x").values, _GREY)


def test_further_pages_of_a_mask_are_refused() -> None:
    with pytest.raises(DataError, match=r"m\.tif: holds 3 pictures"):
        read_mask(_tiff_of_pages(_GREY, _GREY[::2, ::2], _GREY[::4, ::4], reduced=2), "m.tif")


def test_white_is_1_in_every_mask_of_one_bit() -> None:
    """Scanners and fax compression write black as 1 and declare it; all viewers show the same picture."""
    bits = np.array([[0, 1, 1, 0, 0, 0, 0, 1]], bool)
    assert read_mask(_grey_tiff(1, b"\x9e", photometric=0, height=1), "x").values.tolist() == bits.astype(int).tolist()
    assert np.array_equal(read_mask(encoded(Image.fromarray(bits), "TIFF", compression="group4"), "x").values, bits)


def test_a_palette_mask_gives_indices_and_colours() -> None:
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 7, 8, 9])
    mask = read_mask(encoded(image, "PNG"), "x")
    assert np.array_equal(mask.values, indices)
    assert mask.palette is not None
    assert mask.palette[:6] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (7, 8, 9))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.fromarray(_GREY), "JPEG"), "JPEG, which blurs class ids"),
        (encoded(Image.fromarray(_GREY.astype(np.float32)), "TIFF"), "mode F"),
        (_png(16, 2, bytes(48)), "more than 8 bits"),
    ],
)
def test_masks_that_cannot_hold_ids_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_mask(data, "x")


def test_threads_that_read_at_once_leave_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    filters = warnings.filters
    first, second = (contextlib.ExitStack() for _ in range(2))
    for reading in (first, second):
        reading.enter_context(no_warnings())
        reading.enter_context(own_limit())
    first.close()
    assert Image.MAX_IMAGE_PIXELS is None  # the second thread still reads
    second.close()
    assert Image.MAX_IMAGE_PIXELS == 10
    assert warnings.filters is filters


def _tiff(compression: int) -> bytes:
    """A TIFF that declares this compression."""
    tag = struct.pack("<HHI", 259, 3, 1)
    return encoded(Image.fromarray(_GREY), "TIFF").replace(tag + b"\1\0", tag + struct.pack("<H", compression))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (encoded(Image.fromarray(_GREY), "TIFF", compression="jpeg"), "JPEG"),
        (_tiff(6), "JPEG"),
        (_tiff(33003), "JPEG 2000"),
        (_tiff(33005), "JPEG 2000"),
        (_tiff(34712), "JPEG 2000"),
        (_tiff(34887), "LERC"),
        (_tiff(50001), "WebP"),
        (_tiff(50002), "JPEG XL"),
        (_tiff(34676), "compression 34676"),
    ],
)
def test_a_mask_in_a_tiff_that_may_blur_it_is_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(DataError, match=f"^x: a mask in a TIFF compressed by {named}, which blurs class ids"):
        read_mask(data, "x")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"])
def test_a_mask_in_a_tiff_without_loss_is_read(compression: str | None) -> None:
    data = encoded(Image.fromarray(_GREY), "TIFF", compression=compression)
    assert np.array_equal(read_mask(data, "x").values, _GREY)


def test_a_mask_survives_encoding() -> None:
    assert np.array_equal(_pixels(encode_class_ids(_GREY)), _GREY)


_SEEDS = [
    encoded(Image.fromarray(_RGB), "JPEG", exif=_oriented(6)),
    encoded(Image.fromarray(_RGB), "PNG", exif=_oriented(6)),
    encoded(Image.fromarray(_RGB).quantize(20), "PNG"),
    encoded(Image.fromarray(_RGB), "TIFF"),
    encoded(Image.fromarray(_RGB), "WEBP"),
    encoded(Image.fromarray(_RGB), "GIF"),
    encoded(Image.fromarray(_RGB), "BMP"),
]


_damages = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


def _damaged(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[int(position * len(damaged))] = value
    return bytes(damaged)


@given(st.sampled_from(_SEEDS), _damages)
@settings(max_examples=300, deadline=None)
def test_damaged_files_are_read_or_refused_and_nothing_else(data: bytes, changes: list[tuple[float, int]]) -> None:
    for read in (check_image, read_mask):
        with contextlib.suppress(DataError):
            read(_damaged(data, changes), "x", 10_000)


@given(
    st.sampled_from([*_SEEDS, encoded(Image.fromarray(_RGB), "JPEG"), encoded(Image.fromarray(_GREY), "PNG")]),
    _damages,
    st.integers(0, 40),
    st.binary(max_size=20),
)
@settings(max_examples=300, deadline=None)
def test_every_image_that_is_accepted_can_be_trained_on(
    data: bytes, changes: list[tuple[float, int]], cut: int, behind: bytes
) -> None:
    damaged = _damaged(data, changes)
    try:
        checked = check_image(damaged[: len(damaged) - cut] + behind, "x", 10_000)
    except DataError:
        return
    size = (checked.height, checked.width)
    check_stored_image(checked.data, checked.array, *size)
    check_class_id_png(encode_class_ids(np.zeros(size, np.uint8)), *size)
    if checked.array is None:
        assert decode_image(checked.data).shape == (*size, 3)
    else:
        assert decode_npy(checked.data, checked.array, *size).shape == (*size, checked.array.channels)
