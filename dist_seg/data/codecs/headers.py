"""Headers of JPEGs and PNGs, and a cheap check that a file is whole. Nothing is decoded.

Both loaders see a sample only after this check. It refuses files that one decoder would accept and another would not,
such as a JPEG that is cut off below the region to decode, so that both loaders treat them the same.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dist_seg.config.schema import DataConfig
from dist_seg.errors import LocatedError

MAX_PIXELS = DataConfig.max_pixels
"""Largest image to decode unless the user allows more. Pillow refuses images above the same limit."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_EXPANDED = 1 << 20
"""Bytes that a text or profile chunk may expand to. Pillow refuses more, other decoders may not."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Within coded pixels, 0xFF is followed by 0, a restart marker or another 0xFF. Anything else ends the pixels.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_JPEG_SEGMENTS = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_JPEG_END = 0xD9


class UndecodableError(LocatedError):
    """The bytes are not a whole picture of the expected kind. The message says why; `where` names the member."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The header of a JPEG or PNG."""

    kind: str
    """`JPEG` or `PNG`."""
    height: int
    width: int
    bits: int
    """Bits per channel."""
    is_plain_grey: bool
    """One channel that holds the values themselves, not indices into a palette."""
    coded_end: int | None = None
    """JPEG only: offset of the marker that ends the picture."""


def read_header(data: bytes) -> Header:
    """Raises `UndecodableError` if the bytes are not a JPEG or PNG, or end too early."""
    if data.startswith(PNG_SIGNATURE):
        return _read_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(data)
    raise UndecodableError("neither a JPEG nor a PNG" if data else "empty")


def png_chunks(data: bytes, name: bytes) -> Iterator[bytes]:
    """The contents of all chunks of that name in a PNG that `read_header` accepted."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, found = struct.unpack_from(">I4s", data, position)
        if found == name:
            yield data[position + 8 : position + 8 + length]
        position += 12 + length


def check_picture(image: bytes, height: int, width: int) -> None:
    """Raises `UndecodableError` unless the image is a picture of `height` × `width` pixels, 8 bits per channel."""
    try:
        header = read_header(image)
    except UndecodableError as error:
        raise UndecodableError(error.reason, where="image") from error
    if (header.height, header.width) != (height, width):
        raise UndecodableError(f"{header.width}x{header.height} pixels, its index says {width}x{height}", where="image")
    if header.bits > 8:  # one decoder would scale the values, another would cut them
        raise UndecodableError(f"{header.bits} bits a channel, must be 8", where="image")


def check_mask(mask: bytes, height: int, width: int, *, bits: int, layers: range, what: str, wanted: str = "") -> None:
    """Raises `UndecodableError` unless the mask is a grey PNG of an allowed number of layers, one below the other, each
    `height` × `width` pixels of `bits` bits.

    what: what errors call such a PNG. wanted: what errors about the size add at the end.
    """
    try:
        header = read_header(mask)
    except UndecodableError as error:
        raise UndecodableError(error.reason, where="mask") from error
    found, rest = divmod(header.height, height)
    if header.width != width or rest or found not in layers:
        reason = f"{header.width}x{header.height} pixels, the image has {width}x{height}{wanted}"
        raise UndecodableError(reason, where="mask")
    if header.kind != "PNG" or header.bits != bits or not header.is_plain_grey:
        raise UndecodableError(f"must be {what}, is a {header.bits}-bit {header.kind}", where="mask")


def _read_png(data: bytes) -> Header:
    position, header, ended = len(PNG_SIGNATURE), None, False
    while position + 12 <= len(data) and not ended:
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise UndecodableError(f"PNG with a damaged {name.decode('latin-1')} chunk")
        if name == b"IHDR" and length == 13:
            width, height, bits, color = struct.unpack_from(">IIBB", data, position + 8)
            header = Header(kind="PNG", height=height, width=width, bits=bits, is_plain_grey=color == 0)
        if name in (b"zTXt", b"iTXt", b"iCCP"):
            _check_expansion(name, data[position + 8 : end])
        ended = name == b"IEND"
        position = end + 4
    if header is None or not ended:
        raise UndecodableError(f"PNG that is cut off after {len(data)} bytes")
    return header


def _check_expansion(name: bytes, chunk: bytes) -> None:
    """Refuses a chunk of a few kilobytes that expands to gigabytes of text or colour profile."""
    _, _, packed = chunk.partition(b"\0")  # past the keyword
    if name == b"iTXt":
        if packed[:1] != b"\1":  # not compressed
            return
        _, _, packed = packed[2:].partition(b"\0")  # past the language
        _, _, packed = packed.partition(b"\0")  # past the translated keyword
    else:
        packed = packed[1:]  # past the method
    expanding = zlib.decompressobj()
    try:
        expanding.decompress(packed, _MOST_EXPANDED)
    except zlib.error:
        return  # damage outside the pixels does no harm
    if expanding.unconsumed_tail:
        raise UndecodableError(f"PNG whose {name.decode()} chunk expands to more than {_MOST_EXPANDED} bytes")


def _read_jpeg(data: bytes) -> Header:
    position = 2
    while position + 9 < len(data):
        if data[position] != 0xFF:
            raise UndecodableError(f"JPEG with damaged headers at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            end = _checked_scans(data, position + 2 + length)
            grey = channels == 1
            return Header(kind="JPEG", height=height, width=width, bits=bits, is_plain_grey=grey, coded_end=end)
        if marker == 0xDA:
            raise UndecodableError("JPEG without a frame header")
        position += 2 + length
    raise UndecodableError(f"JPEG that is cut off after {len(data)} bytes")


def _checked_scans(data: bytes, position: int) -> int:
    """Offset of the end of the image, if only segments and coded pixels stand between the frame header and it.

    Refuses anything else, because some decoders skip what makes others stop.
    """
    while match := _JPEG_MARKER.search(data, position):
        marker = data[match.start() + 1]
        if marker == _JPEG_END:
            return match.start()
        if marker not in _JPEG_SEGMENTS:
            raise UndecodableError(f"JPEG with damaged pixels at byte {match.start()}")
        if match.end() + 2 > len(data):
            break
        position = match.end() + int(struct.unpack_from(">H", data, match.end())[0])
    raise UndecodableError(f"JPEG that is cut off after {len(data)} bytes")
