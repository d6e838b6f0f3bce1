"""Raw image and mask files: checked, and converted to what shards hold.

- An 8-bit RGB or grey JPEG or PNG keeps its bytes.
- Other 8-bit images (palette, CMYK, 1-bit, BMP, TIFF, WebP, GIF) become an RGB or grey PNG.
- An alpha channel is dropped if it is opaque everywhere; otherwise the image is refused.
- An EXIF orientation is applied to the pixels: a JPEG is encoded again as JPEG (quality 95, no chroma subsampling, no
  EXIF), other formats as PNG. A file with a fault that Pillow forgives but training would not, such as a wrong
  checksum, is encoded again too.
- Images of 16 bits, of several TIFF pages or with a number of channels other than 1 and 3 become arrays (see
  `array_images`). A file of another format that holds several pictures is refused.
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
# The only decoders of Pillow that may read a file: some of the others run programs.
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
    """An image as a shard holds it. All of it has been decoded once."""

    data: bytes
    suffix: str
    """`jpg` or `png`; `npy` for an array."""
    height: int
    width: int
    array: ArrayLayout | None = None
    """None for a picture."""


@dataclass(frozen=True, kw_only=True)
class RawMask:
    """The contents of a mask file, before they become class ids."""

    values: NDArray[np.integer]
    """(H, W) numbers as stored (grey values or palette indices), or (H, W, 3) uint8 colours."""
    palette: tuple[Rgb, ...] | None = None
    """The colours of the indices, if the file has a palette."""
    white: int = 255
    """In a grey file, the number that viewers show as white: 255 for 8 bits, 1 for 1 bit."""

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
    """Decode an image and convert it as described above. data: a file's bytes, or a decoded image.

    Raises `DataError` naming `where` if the image is refused, and `UserError` if the extra `tiff` is missing.
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
    """Check a JPEG that can keep its bytes. It is decoded whole, but without its colours: a third of the time saved.

    Returns None for any other file and for any fault, which the full decoder then explains.
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
            assert header.coded_end is not None  # a JPEG has it
            if ends_early(image, data, header.coded_end):
                return None
    except Exception:  # decoders raise anything, see `_opened`
        return None
    return CheckedImage(data=data, suffix="jpg", height=header.height, width=header.width)


def _is_cut_off(data: bytes) -> bool:
    """Whether pixels are missing in a JPEG that can be decoded."""
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
            f"{where}: a mask in a TIFF compressed by {lossy}, which blurs class ids; save masks as PNG, or as TIFF "
            "with LZW or deflate"
        )
    with _opened(data, where, max_pixels) as image:
        if image.format in _LOSSY_FORMATS:
            raise DataError(f"{where}: a mask in {image.format}, which blurs class ids; save masks as PNG")
        shown, _ = _upright(image)
        if shown.mode == "P":  # the indices are the classes, even if palette entries are transparent
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
            mode = f"mode {image.mode}" + (" with more than 8 bits a channel" if _is_deep(image, data) else "")
            raise DataError(f"{where}: a mask of {mode}; it must be grey, palette or 8-bit RGB, best as PNG")
        return RawMask(values=np.asarray(opaque))


def encode_image(image: NDArray[np.uint8], suffix: str) -> bytes:
    """Encode (H, W, 3) or (H, W) as JPEG (`jpg`: quality 95, no chroma subsampling) or as `png`."""
    return _encoded(Image.fromarray(image), suffix).data


def _checked_array(values: Values, where: str, max_pixels: int) -> CheckedImage:
    """values: (H, W) or (H, W, C), as a reader of the user returns them."""
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
    """The decoded image. Whatever the decoders raise on bad bytes becomes a `DataError`."""
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
                "raise the limit (max_pixels) if you trust the file"
            )
        if pictures > 1:
            raise DataError(f"{where}: holds {pictures} pictures; save the one you mean as a file of its own")
        with image:
            yield image


def _num_pictures(image: Image.Image) -> int:
    """Smaller copies of the first picture do not count: a camera's JPEG preview, a TIFF's overviews (as in a COG)."""
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
    """The EXIF orientation; None if the image need not be turned."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # viewers and DALI ignore damaged EXIF too
        return None
    return orientation if orientation in range(2, 9) else None


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image turned by its EXIF orientation, and whether that changed it."""
    orientation = _orientation(image)
    if orientation is None:
        return image, False
    image.getexif()[ExifTags.Base.Orientation] = orientation  # replaces one that only XMP has, which no viewer obeys
    turned = ImageOps.exif_transpose(image)
    turned.info.pop("exif", None)
    return turned, True


def _without_alpha(image: Image.Image, where: str) -> tuple[Image.Image, bool]:
    """The image without its opaque alpha channel or transparent colour, and whether it had one."""
    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return image, False
    with_alpha = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    alpha = np.asarray(with_alpha.getchannel("A"))
    if alpha.min() < 255:
        y, x = np.unravel_index(int(alpha.argmin()), alpha.shape)
        raise DataError(
            f"{where}: has transparent pixels, for example at (x={x}, y={y}); "
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
    """Whether bytes that Pillow can decode also pass the check that training makes on every sample it reads."""
    try:
        header = read_header(data)
    except UndecodableError:
        return False
    return (header.height, header.width, header.bits) == (image.height, image.width, 8)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether there are more than 8 bits a channel. Pillow cuts them to 8 silently."""
    if image.format == "PNG":
        return data[_PNG_DEPTH_AT] == 16
    return max(_tiff_bits(image)) > 8


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    """Bits of each channel; 8 if the file is no TIFF."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
    return tuple(int(channel) for channel in (bits if isinstance(bits, tuple) else (bits,)))


def _white(image: Image.Image, data: bytes, where: str) -> int:
    """The number that viewers show as white, at most 255.

    Pillow spreads the values of 2- and 4-bit grey PNGs and TIFFs over 0 to 255, but class ids are the stored values.
    Raises `DataError` for a TIFF in which 0 is white: some readers invert its numbers and others do not.
    """
    bits = 1 if image.mode == "1" else 8
    if image.format == "PNG" and data[_PNG_COLOR_AT] == 0:
        bits = data[_PNG_DEPTH_AT]
    elif image.format == "TIFF" and image.mode != "1":
        tags = image.tag_v2  # type: ignore[attr-defined]  # a TIFF has it
        if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:
            raise DataError(
                f"{where}: a mask in a TIFF in which 0 is white (MinIsWhite), whose numbers some readers invert; "
                "save masks as PNG, or as TIFF in which 0 is black"
            )
        bits = max(_tiff_bits(image))
    return int(2 ** min(bits, 8)) - 1


def _palette(image: Image.Image) -> tuple[Rgb, ...]:
    flat = image.getpalette("RGB") or []
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
