"""Whether the palettes of all mask files give an index the same colour.

If they do not, for example because each file has a palette of its own colours, the indices are no class ids. A palette
that is a plain ramp of greys tells nothing and is not compared.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.headers import PNG_SIGNATURE, png_chunks
from dist_seg.data.codecs.png import value_counts
from dist_seg.data.raw.images import RawMask
from dist_seg.data.raw.pillow_limit import no_warnings, own_limit
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb

_HEAD_BYTES = 4096
"""Length of a file's beginning, which usually includes the palette of a PNG."""
_READS = 16
"""Files read at once. Reading them is mostly waiting."""
_PNG_COLOR_AT, _PNG_PALETTE = 25, 3
_BLACK = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class IndexColors:
    """The colour of each palette index in the masks of a data set."""

    colors: Mapping[int, Rgb] = field(default_factory=dict)
    """By index. Indices without a colour in any palette are missing."""
    sources: Mapping[int, str] = field(default_factory=dict)
    """A file in which the index has that colour."""
    advice: str = ""
    """How to fix masks with other colours, for the error message."""

    @property
    def version(self) -> str:
        """Changes when the set of refused masks may change; empty if no mask can be refused."""
        return hashlib.sha256(repr(sorted(self.colors.items())).encode()).hexdigest()[:16] if self.colors else ""

    def check(self, mask: RawMask, where: str) -> None:
        """Raises `DataError` naming an index that has another colour in this mask, and its position."""
        if mask.palette is None or not self.colors or _is_ramp(mask.palette):
            return
        indices = mask.values.astype(np.uint8, copy=False)
        for index in np.flatnonzero(value_counts(indices)).tolist():
            color = mask.palette[index] if index < len(mask.palette) else _BLACK
            known = self.colors.get(index, color)
            if color == known or (index == IGNORE_INDEX and _is_unset(index, color)):
                continue
            y, x = np.argwhere(indices == index)[0]
            raise DataError(
                f"{where}: index {index}, at (x={x}, y={y}), has the colour {color} in its palette, but {known} in "
                f"{self.sources[index]}; if palettes differ, indices are no class ids: {self.advice}"
            )


def common_colors(masks: Iterable[Path], advice: str) -> IndexColors:
    """The colour that most palettes give each index, or the first of several that are equally frequent.

    Only the beginning of each file is read. Colours that tools write for unused indices (black, or the index as a grey)
    do not count.
    """
    counts: Counter[bytes] = Counter()
    holders: dict[bytes, Path] = {}
    paths = list(masks)
    with ThreadPoolExecutor(_READS) as pool:
        for path, flat in zip(paths, pool.map(_read_palette, paths), strict=True):
            counts[flat] += 1
            holders.setdefault(flat, path)
    votes: dict[int, Counter[Rgb]] = {}
    first: dict[tuple[int, Rgb], Path] = {}
    for flat, count in counts.items():
        palette = _triples(flat)
        for index, color in enumerate(() if _is_ramp(palette) else palette):
            if not _is_unset(index, color):
                votes.setdefault(index, Counter())[color] += count
                first.setdefault((index, color), holders[flat])
    colors = {index: of_index.most_common(1)[0][0] for index, of_index in sorted(votes.items())}
    sources = {index: str(first[index, color]) for index, color in colors.items()}
    return IndexColors(colors=colors, sources=sources, advice=advice)


def _is_unset(index: int, color: Rgb) -> bool:
    """Whether tools write this colour for an unused index. At index 0 black is a real colour."""
    return index > 0 and color in (_BLACK, (index, index, index))


def _is_ramp(palette: tuple[Rgb, ...]) -> bool:
    return all(color == (index, index, index) for index, color in enumerate(palette))


def _read_palette(path: Path) -> bytes:
    """R, G, B of the entries. Empty if the file has no palette or cannot be read, which packing reports."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if not head.startswith(PNG_SIGNATURE):
                return _opened_palette(head + file.read())
            if head[_PNG_COLOR_AT] != _PNG_PALETTE:
                return b""
            whole = head if b"IDAT" in head else head + file.read()
            return next(png_chunks(whole, b"PLTE"), b"")
    except Exception:  # OSError, or whatever decoders raise on bytes that make no sense
        return b""


def _opened_palette(data: bytes) -> bytes:
    """The palette of a file that is no PNG. Its pixels are not decoded."""
    with no_warnings(), own_limit(), Image.open(io.BytesIO(data), formats=("TIFF", "BMP", "GIF")) as image:
        if image.mode != "P" or image.palette is None:
            return b""
        converted = Image.new("P", (1, 1))
        converted.putpalette(image.palette)
        return bytes(converted.getpalette("RGB") or ())


def _triples(flat: bytes) -> tuple[Rgb, ...]:
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
