"""Image files of 16 bits, of several pages, or with a number of channels other than 1 and 3, read without loss.

Pillow would lose data: it cuts 16-bit RGB to 8 bits and drops channels. So tifffile reads TIFF and imagecodecs reads
PNG (the extra `tiff`). The pages of a TIFF become channels, one page after the other.
"""

import io
import logging
import math
import struct
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from dist_seg.data.codecs.headers import PNG_SIGNATURE, UndecodableError, png_chunks, read_header
from dist_seg.data.codecs.npy import MAX_CHANNELS, Values
from dist_seg.data.raw.pillow_limit import no_warnings, own_limit
from dist_seg.errors import DataError, UserError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_DEPTH_AT, _PNG_COLOR_AT = 24, 25
_MOST_VALUES_PER_PIXEL = 4
"""Limit on values, in multiples of `max_pixels`: an image with more channels may have fewer pixels, to bound memory."""
# Tag numbers and values of TIFF 6.0.
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _PHOTOMETRIC, _EXTRA_SAMPLES, _ORIENTATION = 258, 277, 262, 338, 274
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
_COMPRESSION, _PREDICTOR = 259, 317
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = 7
_COMPRESSIONS = frozenset({1, 5, _JPEG, 8, 32773, 32946, 50000})
"""None, LZW, JPEG, deflate (two codes), PackBits and Zstandard. None of them expands to more than the page declares."""
_WITHOUT_PREDICTOR = (1, _JPEG, 32773)
# None, CCITT for one bit, LZW, deflate (two codes), PackBits, LZMA and Zstandard.
_LOSSLESS = frozenset({1, 2, 3, 4, 5, 8, 32771, 32773, 32946, 34925, 50000})
_COMPRESSION_NAMES = {
    **{6: "JPEG", _JPEG: "JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"},
    **{34887: "LERC", 34892: "JPEG", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"},
}
_REDUCED, _IS_MASK = 1, 4
_ALPHA = (1, 2)


ODD_PREDICTOR = (
    "stores differences of values (a predictor) in a compression that defines none, which only some readers undo; "
    "save it with LZW or deflate"
)


def has_odd_predictor(tags: Mapping[int, object]) -> bool:
    """Whether a TIFF's tags combine a predictor with a compression that defines none (LZW, deflate and others do)."""
    return tags.get(_PREDICTOR, 1) != 1 and tags.get(_COMPRESSION, 1) in _WITHOUT_PREDICTOR


def lossy_compression(data: bytes) -> str | None:
    """The name of a TIFF's compression if it may change values. Some of these have a lossless mode that no tag shows.

    Returns None for other files, and for bytes that make no sense: decoding them raises the error.
    """
    if not data.startswith(_TIFF_SIGNATURES):
        return None
    try:
        number = _first_tags(data).get(_COMPRESSION, 1)
    except Exception:  # Pillow raises anything on bad bytes
        return None
    return None if number in _LOSSLESS else _COMPRESSION_NAMES.get(number, f"compression {number}")


def is_array_file(data: bytes) -> bool:
    """Whether an image file holds more than an 8-bit picture of one page, so that `read_array` must read it.

    Raises `UserError` if the extra is missing.
    """
    if data.startswith(PNG_SIGNATURE):
        return len(data) > _PNG_DEPTH_AT and data[_PNG_DEPTH_AT] == 16
    if not data.startswith(_TIFF_SIGNATURES):
        return False
    try:
        tags = _first_tags(data)
        bits, extra = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_EXTRA_SAMPLES, ())
        colors = tags.get(_SAMPLES_PER_PIXEL, 1) - len(extra)
        is_picture = (
            (colors in (1, 3) or (tags.get(_PHOTOMETRIC) == _CMYK and colors == 4))
            and max(bits) <= 8
            and set(tags.get(_SAMPLE_FORMAT, ())) <= {_UNSIGNED}
            and extra in ((), *((kind,) for kind in _ALPHA))
        )
        return not is_picture or (tags.next != 0 and _has_pages(data))
    except UserError:
        raise
    except Exception:  # bytes that make no sense: decoding them raises the error
        return False


def read_array(data: bytes, where: str, max_pixels: int) -> Values:
    """The upright image, (H, W, C) uint8 or uint16, without an opaque alpha channel.

    Raises `DataError` naming `where` if the image is refused, and `UserError` if the extra is missing.
    """
    try:
        return (_read_png if data.startswith(PNG_SIGNATURE) else _read_tiff)(data, where, max_pixels)
    except UserError:
        raise
    except UndecodableError as error:
        raise DataError(f"{where}: cannot be decoded: {error}") from error
    except Exception as error:  # decoders raise anything on bytes that make no sense
        raise DataError(f"{where}: cannot be decoded: {error or type(error).__name__}") from error


def check_size(height: int, width: int, channels: int, where: str, max_pixels: int) -> None:
    """Raises `DataError` for an image with too many pixels or channels. Call it before decoding."""
    if height * width > max_pixels:
        raise DataError(
            f"{where}: {width}x{height} pixels are more than the allowed {max_pixels}; raise the limit (max_pixels) if "
            "you trust the file"
        )
    if channels > MAX_CHANNELS:
        raise DataError(f"{where}: has {channels} channels; an image may have at most {MAX_CHANNELS}")
    if height * width * channels > _MOST_VALUES_PER_PIXEL * max_pixels:
        raise DataError(
            f"{where}: {width}x{height} pixels of {channels} channels are more than {_MOST_VALUES_PER_PIXEL} times the "
            f"allowed {max_pixels} values; raise the limit (max_pixels) if you trust the file"
        )


def _read_png(data: bytes, where: str, max_pixels: int) -> Values:
    header = read_header(data)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[data[_PNG_COLOR_AT]]
    check_size(header.height, header.width, channels, where, max_pixels)
    if header.is_plain_grey and not list(png_chunks(data, b"tRNS")):
        with (
            own_limit(),
            Image.open(io.BytesIO(data), formats=("PNG",)) as image,
        ):  # Pillow reads this kind without loss
            values: Values = np.asarray(image).astype(np.uint16)[..., None]
    else:
        values = _optional("imagecodecs").png_decode(data).reshape(header.height, header.width, -1)
    if values.shape[2] in (2, 4):  # alpha of its own, or made from a transparent colour
        values = _without_alpha(values, values.shape[2] - 1, where)
    exif = Image.Exif()
    try:
        exif.load(next(iter(png_chunks(data, b"eXIf")), b""))
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # viewers ignore damaged EXIF too
        orientation = 1
    return _upright(values, orientation)


def _read_tiff(data: bytes, where: str, max_pixels: int) -> Values:
    with _opened(data) as file:
        pages = _full_pages(file, where)
        _check_pages(file, pages, where)
        first, channels = pages[0], sum(page.samplesperpixel for page in pages)
        check_size(first.imagelength, first.imagewidth, channels, where, max_pixels)
        for page in pages:
            _check_segments(page, data, where, max_pixels)
        return np.concatenate([_read_page(page, where) for page in pages], axis=2)


def _opened(data: bytes) -> "TiffFile":
    tifffile = _optional("tifffile")
    # Warnings about odd tags do not help the user. The OME parser would open other files that this file names.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return cast("TiffFile", tifffile.TiffFile(io.BytesIO(data), is_ome=False))


def _first_tags(data: bytes) -> ImageFileDirectory_v2:
    """The tags of a TIFF's first page, even if Pillow cannot decode the page."""
    file = io.BytesIO(data)
    head = file.read(16 if data[2:3] in b"+" or data[3:4] in b"+" else 8)
    with no_warnings():
        tags = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
    return tags


def _has_pages(data: bytes) -> bool:
    """Whether a TIFF holds more than a first page and smaller copies of it."""
    with _opened(data) as file:
        reduced = [bool(page.subfiletype & _REDUCED) for page in _pages(file)]
    return reduced[0] or not all(reduced[1:])


def _pages(file: "TiffFile") -> "list[TiffPage]":
    return [cast("TiffPage", page) for page in file.pages]


def _full_pages(file: "TiffFile", where: str) -> "list[TiffPage]":
    """The pages without smaller copies for viewers. Raises `DataError` if pages are missing or masked."""
    every = _pages(file)
    if _next_offset(file, every[-1]):
        raise DataError(f"{where}: cannot be decoded: it is cut off after page {len(every)}")
    pages = [page for page in every if not page.subfiletype & _REDUCED]
    if any(page.subfiletype & _IS_MASK for page in pages):
        raise DataError(f"{where}: has a page that masks transparent pixels; save it without that page")
    if not pages:
        raise DataError(f"{where}: holds no picture of full resolution")
    return pages


def _next_offset(file: "TiffFile", page: "TiffPage") -> int:
    """File offset of the page after `page`; 0 if it is the last."""
    form, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    (num_tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
    handle.seek(page.offset + form.tagnosize + num_tags * form.tagsize)
    (offset,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
    return int(offset)


def _check_pages(file: "TiffFile", pages: "list[TiffPage]", where: str) -> None:
    """Raises `DataError` for pages that cannot form one array."""
    declared = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
    truncated = any(part.get("truncated") for part in file.shaped_metadata or ()) if file.is_shaped else False
    if truncated or declared > len(pages):
        raise DataError(f"{where}: holds more pages than it lists; save it with a directory entry for every page")
    for number, page in enumerate(pages):
        if problem := _problem(page):
            raise DataError(f"{where}{f', page {number + 1}' if len(pages) > 1 else ''}: {problem}")
        size, wanted = ((p.imagewidth, p.imagelength) for p in (page, pages[0]))
        if size != wanted or page.dtype != pages[0].dtype:
            raise DataError(
                f"{where}: page {number + 1} has {size[0]}x{size[1]} pixels of {page.dtype}, the first "
                f"{wanted[0]}x{wanted[1]} of {pages[0].dtype}; the pages of an image must agree"
            )


def _problem(page: "TiffPage") -> str | None:
    """Why a page cannot be used, and what to do; None if it can."""
    photometric = int(page.photometric)
    if photometric == _PALETTE:
        return "has a palette; save it as RGB"
    if photometric == _CMYK:
        return "is CMYK; convert it to RGB"
    if page.bitspersample == 1:
        return "has 1 bit a pixel; save it as 8-bit grey"
    if page.dtype is None or page.dtype not in (np.uint8, np.uint16) or page.bitspersample < 8:
        return (
            f"has {page.bitspersample}-bit values of type {page.dtype}; images must be unsigned whole numbers of 8 or "
            "16 bits: scale or shift the values, and save them as uint16"
        )
    if photometric == _MIN_IS_WHITE:
        return "uses 0 for white (MinIsWhite); invert the values and save it with 0 for black"
    compression = int(page.compression)
    if photometric not in (_MIN_IS_BLACK, _RGB) and not (photometric == _YCBCR and compression == _JPEG):
        return f"has {_name_of(page.photometric)} colours; convert it to RGB"
    if compression not in _COMPRESSIONS:
        return f"is compressed by {_name_of(page.compression)}; save it with LZW, deflate or no compression"
    if int(page.predictor) != 1 and compression in _WITHOUT_PREDICTOR:
        return ODD_PREDICTOR
    if page.imagedepth != 1:
        return f"has a depth of {page.imagedepth}; save it as one page for each"
    return None


def _check_segments(page: "TiffPage", data: bytes, where: str, max_pixels: int) -> None:
    """Raises `DataError` if pixels are missing, which tifffile reads as 0, or if a part is larger than its page."""
    spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    is_whole = page.is_contiguous or len(spans) == math.prod(page.chunked)
    if not is_whole or not all(count > 0 and offset + count <= len(data) for offset, count in spans):
        raise DataError(f"{where}: cannot be decoded: parts of its pixels are missing")
    if int(page.compression) == _JPEG:
        for offset, count in spans:
            header = read_header(data[offset : offset + count])
            if header.kind != "JPEG" or header.height * header.width > max_pixels:
                raise DataError(f"{where}: cannot be decoded: a part of {header.width}x{header.height} pixels")


def _read_page(page: "TiffPage", where: str) -> Values:
    """(H, W, C)."""
    planes = page.asarray(squeeze=False, maxworkers=1)  # (planes, depth, H, W, samples)
    height, width = page.imagelength, page.imagewidth
    values: Values = planes[:, 0].transpose(1, 2, 0, 3).reshape(height, width, page.samplesperpixel)
    num_colors = values.shape[2] - len(page.extrasamples)
    for i, kind in reversed(list(enumerate(page.extrasamples))):
        if int(kind) in _ALPHA:
            values = _without_alpha(values, num_colors + i, where)
    tag = page.tags.get(_ORIENTATION)
    return _upright(values, int(tag.value) if tag else 1)


def _without_alpha(values: Values, channel: int, where: str) -> Values:
    """The values without an alpha channel that is opaque everywhere. Raises `DataError` if it is not."""
    alpha = values[..., channel]
    if int(alpha.min()) < np.iinfo(values.dtype).max:
        y, x = np.unravel_index(int(alpha.argmin()), alpha.shape)
        raise DataError(
            f"{where}: has transparent pixels, for example at (x={x}, y={y}): channel {channel + 1} is marked as "
            "alpha. Put the picture on a background and save it without alpha; if the channel holds data, mark it as "
            "unspecified (ExtraSamples 0)"
        )
    return np.delete(values, channel, axis=2)


def _upright(values: Values, orientation: object) -> Values:
    """The picture turned and mirrored by its TIFF or EXIF orientation."""
    match orientation:
        case 2:
            return values[:, ::-1]
        case 3:
            return values[::-1, ::-1]
        case 4:
            return values[::-1]
        case 5:
            return values.swapaxes(0, 1)
        case 6:
            return values.swapaxes(0, 1)[:, ::-1]
        case 7:
            return values.swapaxes(0, 1)[::-1, ::-1]
        case 8:
            return values.swapaxes(0, 1)[::-1]
    return values


def _name_of(value: object) -> str:
    return str(getattr(value, "name", value))


def _optional(module: str) -> ModuleType:
    try:
        match module:
            case "tifffile":
                import tifffile

                return tifffile
            case _:
                import imagecodecs

                return imagecodecs
    except ImportError as error:
        raise UserError(
            f"images of 16 bits, of several pages, or with channels other than 1 or 3 need {module}: "
            "pip install 'dist-seg[tiff]'"
        ) from error
