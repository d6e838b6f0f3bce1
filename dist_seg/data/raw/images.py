"""Raw image and mask files, checked and brought into the form that shards hold.

Images: 8-bit RGB or grey JPEG and PNG keep their bytes. Everything else that has 8 bits (palette, CMYK, 1-bit, BMP,
TIFF, WebP, GIF) becomes an RGB or grey PNG. An alpha channel is dropped if it is opaque everywhere, and refused
otherwise. An EXIF orientation is baked in: a JPEG is written anew as JPEG (quality 95, no chroma subsampling, no EXIF),
others as PNG. So is a file that Pillow forgives what training would not, such as a wrong checksum.

Images of 16 bits, of several TIFF pages or of another number of channels become arrays (see `array_images`); files of
other formats with several pictures are refused.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dist_seg.data.codecs.headers import MAX_PIXELS, UndecodableError, read_header
from dist_seg.data.codecs.npy import ArrayLayout, Values, encode_npy, layout_of
from dist_seg.data.raw.array_images import (
    ODD_PREDICTOR,
    check_size,
    has_odd_predictor,
    is_array_file,
    lossy_compression,
    read_array,
)
from dist_seg.data.raw.jpeg_scans import ends_early
from dist_seg.data.raw.pillow_limit import no_warnings, own_limit
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.palette import Rgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
# Only these decoders of Pillow's are let near a file: some of the others run programs.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_CONVERTIBLE_MODES = frozenset({"P", "CMYK", "YCbCr", "RGBX"}) | _ALPHA_MODES
_JPEG_SIGNATURE = b"\xff\xd8\xff"
# Tag numbers and values of TIFF 6.0.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MIN_IS_WHITE = 258, 262, 0
_SUBFILE_TYPE, _REDUCED = 254, 1
_PNG_DEPTH_AT, _PNG_COLOR_AT = 24, 25  # in the file: bit depth and colour type of the IHDR chunk


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """An image that was decoded whole, as a shard holds it."""

    data: bytes
    suffix: str
    """`jpg`, `png` or, of arrays, `npy`."""
    height: int
    width: int
    array: ArrayLayout | None = None
    """None for a picture."""


@dataclass(frozen=True, kw_only=True)
class RawMask:
    """A mask file's contents before they are class ids."""

    values: NDArray[np.integer]
    """(H, W) numbers as stored (grey values or palette indices), or (H, W, 3) uint8 colours."""
    palette: tuple[Rgb, ...] | None = None
    """The colours of the indices, in a palette file."""
    white: int = 255
    """The number that a viewer shows as white, in a file of grey values: 1 for one of 1 bit."""

    @property
    def is_color(self) -> bool:
        return self.values.ndim == 3


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises `StorageError` naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_image(data: bytes | Values, where: str, max_pixels: int = MAX_PIXELS) -> CheckedImage:
    """Decode an image, or take a decoded one, and bring it into the form above.

    Raises `DataError` naming `where` for one that is refused, `UserError` where the extra `tiff` is missing.
    """
    if isinstance(data, np.ndarray):
        return _checked_array(data, where, max_pixels)
    if passed := _passed_jpeg(data, max_pixels):
        return passed
    if is_array_file(data):
        return _as_array(read_array(data, where, max_pixels))
    with _opened(data, where, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and _is_cut_off(data):
            raise DataError(f"{where}: is cut off: its pixels end before its end marker; take it from its source again")
        if image.mode.startswith(("I", "F")) or _is_deep(image, data):
            raise DataError(f"{where}: has more than 8 bits a channel; save it as a TIFF or PNG of 16 bits")
        upright, turned = _upright(image)
        opaque, converted = _without_alpha(upright, where)
        passes = image.format in ("JPEG", "MPO", "PNG") and opaque.mode in ("RGB", "L")
        if passes and not turned and not converted and _passes_in_training(data, image):
            suffix = "png" if image.format == "PNG" else "jpg"
            return CheckedImage(data=data, suffix=suffix, height=image.height, width=image.width)
        if passes and not converted and image.format != "PNG":
            return _encoded(opaque, "jpg")
        return _encoded(_in_rgb_or_grey(opaque, where), "png")


def _passed_jpeg(data: bytes, max_pixels: int) -> CheckedImage | None:
    """A JPEG that keeps its bytes: all of them are decoded, but its colours not computed, which saves a third of the
    time.

    None for any other file and for any fault, so that the whole decoder says what it is.
    """
    if not data.startswith(_JPEG_SIGNATURE):
        return None
    try:
        header = read_header(data)
        if header.bits != 8 or header.height * header.width > max_pixels:
            return None
        with no_warnings(), own_limit(), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            is_plain = image.format == "JPEG" and image.mode in ("RGB", "L") and _orientation(image) is None
            if not is_plain or image.size != (header.width, header.height):
                return None
            assert header.coded_end is not None  # of a JPEG
            if ends_early(image, data, header.coded_end):
                return None
    except Exception:  # as of `_opened`
        return None
    return CheckedImage(data=data, suffix="jpg", height=header.height, width=header.width)


def _is_cut_off(data: bytes) -> bool:
    """Of a JPEG that can be decoded."""
    try:
        end = read_header(data).coded_end
    except UndecodableError:
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return end is not None and ends_early(image, data, end)


def read_mask(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> RawMask:
    """Decode a mask file. Raises `DataError` naming `where`."""
    if lossy := lossy_compression(data):
        raise DataError(
            f"{where}: a mask in a TIFF of {lossy}, which blurs class ids; save masks as PNG, or as TIFF with LZW or "
            "deflate"
        )
    with _opened(data, where, max_pixels) as image:
        if image.format in _LOSSY_FORMATS:
            raise DataError(f"{where}: a mask in {image.format}, which blurs class ids; save masks as PNG")
        shown, _ = _upright(image)
        if shown.mode == "P":  # whatever its entries' transparency: the indices are the classes
            return RawMask(values=np.asarray(shown), palette=_palette(shown))
        if shown.mode in ("1", "L", "I", "I;16", "I;16B", "I;16L"):
            grey, white = np.asarray(shown), _white(image, data, where)
            if grey.dtype == np.uint8:
                return RawMask(values=grey if white == 255 else grey // (255 // white), white=white)
            return RawMask(values=grey.astype(np.int32), white=white)
        opaque, _ = _without_alpha(shown, where)
        if opaque.mode == "L":
            return RawMask(values=np.asarray(opaque))
        if opaque.mode != "RGB" or _is_deep(image, data):
            kind = f"mode {image.mode}" + (" with more than 8 bits a channel" if _is_deep(image, data) else "")
            raise DataError(f"{where}: a mask of {kind}; it must be grey, palette or 8-bit RGB, best as PNG")
        return RawMask(values=np.asarray(opaque))


def encode_image(image: NDArray[np.uint8], suffix: str) -> bytes:
    """(H, W, 3) or (H, W) as JPEG (`jpg`: quality 95, no chroma subsampling) or `png`."""
    return _encoded(Image.fromarray(image), suffix).data


def _checked_array(values: Values, where: str, max_pixels: int) -> CheckedImage:
    """values: (H, W) or (H, W, C), as a reader of the user's own gives them."""
    native = values.dtype.newbyteorder("=")
    if values.ndim not in (2, 3) or native not in (np.uint8, np.uint16) or not values.size:
        shape = "x".join(str(length) for length in values.shape)
        raise DataError(
            f"{where}: the reader gave an image of shape {shape} and type {values.dtype}; it must be (height, width) "
            "or (height, width, channels) of type uint8 or uint16"
        )
    values = cast(Values, values.reshape(*values.shape[:2], -1).astype(native, copy=False))
    height, width, channels = values.shape
    check_size(height, width, channels, where, max_pixels)
    if values.dtype == np.uint8 and channels in (1, 3):
        return _encoded(Image.fromarray(np.ascontiguousarray(values if channels == 3 else values[..., 0])), "png")
    return _as_array(values)


def _as_array(values: Values) -> CheckedImage:
    height, width, _ = values.shape
    return CheckedImage(data=encode_npy(values), suffix="npy", height=height, width=width, array=layout_of(values))


@contextmanager
def _opened(data: bytes, where: str, max_pixels: int) -> Iterator[Image.Image]:
    """A whole decoded image. What the decoders raise on bad bytes becomes a `DataError`."""
    if not data:
        raise DataError(f"{where}: the file is empty")
    with no_warnings(), own_limit():
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            pixels = image.width * image.height
            if pixels <= max_pixels:
                pictures = _num_pictures(image)
                image.load()
        except UnidentifiedImageError as error:
            raise DataError(f"{where}: is not an image that can be read (JPEG, PNG, BMP, TIFF, WebP, GIF)") from error
        except Exception as error:  # decoders raise anything from OSError to KeyError on bytes that make no sense
            raise DataError(f"{where}: cannot be decoded: {error}") from error
        if image.format == "TIFF" and has_odd_predictor(image.tag_v2):  # type: ignore[attr-defined]  # a TIFF has it
            raise DataError(f"{where}: {ODD_PREDICTOR}")
        if pixels > max_pixels:
            raise DataError(
                f"{where}: {image.width}x{image.height} pixels are more than the allowed {max_pixels}; "
                "raise the limit (max_pixels) if the file is to be trusted"
            )
        if pictures > 1:
            raise DataError(f"{where}: holds {pictures} pictures; save the one that is meant as a file of its own")
        with image:
            yield image


def _num_pictures(image: Image.Image) -> int:
    """Without smaller copies of the first: a camera's preview behind its JPEG, and a TIFF's overviews (as in a COG)."""
    frames: int = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":
        return 1
    if image.format != "TIFF":
        return frames
    reduced = []
    for page in range(frames):
        image.seek(page)
        reduced.append(bool(image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED))  # type: ignore[attr-defined]  # a TIFF has it
    image.seek(0)
    return frames if reduced[0] else reduced.count(False)


def _orientation(image: Image.Image) -> int | None:
    """Of EXIF, where it says that the image is to be turned."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF, which viewers and DALI pass over as well
        return None
    return orientation if orientation in range(2, 9) else None


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as its EXIF orientation says it is to be seen, and whether that changed anything."""
    orientation = _orientation(image)
    if orientation is None:
        return image, False
    image.getexif()[ExifTags.Base.Orientation] = orientation  # over one that is in XMP alone, which nobody obeys
    turned = ImageOps.exif_transpose(image)
    turned.info.pop("exif", None)
    return turned, True


def _without_alpha(image: Image.Image, where: str) -> tuple[Image.Image, bool]:
    """The image without an opaque alpha channel or transparent colour, and whether there was one."""
    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return image, False
    with_alpha = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    alpha = np.asarray(with_alpha.getchannel("A"))
    if alpha.min() < 255:
        y, x = np.unravel_index(int(alpha.argmin()), alpha.shape)
        raise DataError(
            f"{where}: has transparent pixels, the first such at (x={x}, y={y}); "
            "put it on a background and save it without alpha"
        )
    grey = image.mode in ("LA", "La", "L")
    opaque = with_alpha.convert("L" if grey else "RGB")
    opaque.info.pop("transparency", None)
    return opaque, True


def _in_rgb_or_grey(image: Image.Image, where: str) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode not in _CONVERTIBLE_MODES:
        raise DataError(f"{where}: an image of mode {image.mode}; convert it to 8-bit RGB first")
    return image.convert("RGB")


def _encoded(image: Image.Image, suffix: str) -> CheckedImage:
    file = io.BytesIO()
    if suffix == "jpg":
        image.save(file, "JPEG", quality=95, subsampling=0, exif=b"", icc_profile=None)
    else:
        image.save(file, "PNG", compress_level=6, exif=b"", icc_profile=None)
    return CheckedImage(data=file.getvalue(), suffix=suffix, height=image.height, width=image.width)


def _passes_in_training(data: bytes, image: Image.Image) -> bool:
    """Whether the bytes, which Pillow could decode, also stand the test that every sample is put to when it is read."""
    try:
        header = read_header(data)
    except UndecodableError:
        return False
    return (header.height, header.width, header.bits) == (image.height, image.width, 8)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """More than 8 bits a channel, which Pillow cuts to 8 without a word."""
    if image.format == "PNG":
        return data[_PNG_DEPTH_AT] == 16
    return max(_tiff_bits(image)) > 8


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    """Of every channel; 8 for another file."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
    return tuple(int(channel) for channel in (bits if isinstance(bits, tuple) else (bits,)))


def _white(image: Image.Image, data: bytes, where: str) -> int:
    """The number that is shown as white, up to 255.

    Pillow spreads the values of 2- and 4-bit grey PNGs and TIFFs over 0 to 255; the ids are what was stored.
    Raises `DataError` for a TIFF in which 0 is white: some readers turn its numbers round and others do not.
    """
    bits = 1 if image.mode == "1" else 8
    if image.format == "PNG" and data[_PNG_COLOR_AT] == 0:
        bits = data[_PNG_DEPTH_AT]
    elif image.format == "TIFF" and image.mode != "1":
        tags = image.tag_v2  # type: ignore[attr-defined]  # a TIFF has it
        if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:
            raise DataError(
                f"{where}: a mask in a TIFF in which 0 is white (MinIsWhite), whose numbers some readers turn round; "
                "save masks as PNG, or as TIFF in which 0 is black"
            )
        bits = max(_tiff_bits(image))
    return int(2 ** min(bits, 8)) - 1


def _palette(image: Image.Image) -> tuple[Rgb, ...]:
    flat = image.getpalette("RGB") or []
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
