"""Whether the palettes of a data set's mask files give an index the same colour everywhere.

Where they do not, as in files that each were given the palette of their own colours, the indices are no class ids. A
palette that is a plain ramp of greys says nothing.
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
"""Of a file, in which a PNG's palette lies as a rule."""
_READS = 16
"""At once: what they take is waiting."""
_PNG_COLOR_AT, _PNG_PALETTE = 25, 3
_BLACK = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class IndexColors:
    """What colour the indices have in the masks of a data set."""

    colors: Mapping[int, Rgb] = field(default_factory=dict)
    """Without the indices of which no palette says anything."""
    sources: Mapping[int, str] = field(default_factory=dict)
    """Where an index has that colour."""
    advice: str = ""
    """What to do about masks that say otherwise."""

    @property
    def version(self) -> str:
        """Changes when other masks may be refused; empty where none can be."""
        return hashlib.sha256(repr(sorted(self.colors.items())).encode()).hexdigest()[:16] if self.colors else ""

    def check(self, mask: RawMask, where: str) -> None:
        """Raises `DataError` for an index that the mask shows in another colour, with its position."""
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
                f"{where}: index {index}, at (x={x}, y={y}), is the colour {color} in its palette, and {known} in "
                f"{self.sources[index]}; where palettes differ the indices are no class ids: {self.advice}"
            )


def common_colors(masks: Iterable[Path], advice: str) -> IndexColors:
    """The colour that most of the palettes give an index; of several that as many give, the first.

    Only the beginnings of the files are read. What a palette has for indices that are not in use (black, or the number
    as a grey) does not count.
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
    """What tools fill palettes with; black is a colour as the first."""
    return index > 0 and color in (_BLACK, (index, index, index))


def _is_ramp(palette: tuple[Rgb, ...]) -> bool:
    return all(color == (index, index, index) for index, color in enumerate(palette))


def _read_palette(path: Path) -> bytes:
    """R, G and B of its entries; empty for a file without one, and for one that cannot be read: packing says so."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if not head.startswith(PNG_SIGNATURE):
                return _opened_palette(head + file.read())
            if head[_PNG_COLOR_AT] != _PNG_PALETTE:
                return b""
            whole = head if b"IDAT" in head else head + file.read()
            return next(png_chunks(whole, b"PLTE"), b"")
    except Exception:  # from OSError to what decoders raise on bytes that make no sense
        return b""


def _opened_palette(data: bytes) -> bytes:
    """Of a file that is no PNG, which is not decoded for it."""
    with no_warnings(), own_limit(), Image.open(io.BytesIO(data), formats=("TIFF", "BMP", "GIF")) as image:
        if image.mode != "P" or image.palette is None:
            return b""
        brought_to_rgb = Image.new("P", (1, 1))
        brought_to_rgb.putpalette(image.palette)
        return bytes(brought_to_rgb.getpalette("RGB") or ())


def _triples(flat: bytes) -> tuple[Rgb, ...]:
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
