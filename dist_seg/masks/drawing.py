"""Draws masks: colours for classes, overlays, and sheets of pictures with captions. Uses NumPy and Pillow only.

Letters after a name are its axes: H rows, W columns, C colour channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dist_seg.masks.palette import IGNORED_COLOR, IGNORED_LINES, Rgb, default_palette
from dist_seg.masks.rle import decode_mask, mask_extent

_INK: Rgb = (32, 32, 32)
_FAINT: Rgb = (160, 160, 160)
_PAPER: Rgb = (255, 255, 255)
_NUM_OBJECT_COLORS = 24
_LABEL_HEIGHT = 11
_LABEL_ROOM = 28
"""Width of a score in pixels, about."""
_HATCH = 6
"""Pixels from one line of the hatching to the next."""
_LARGEST_DRAWING = 2400
"""Longest side, in pixels, of a picture that is enlarged for its objects."""


def colorize(mask_HW: NDArray[np.integer], palette: Sequence[Rgb], ignore_index: int = 255) -> NDArray[np.uint8]:
    """A mask of class ids as a picture (H, W, 3) uint8. Ignored pixels and ids without a colour are white."""
    table = np.full((256, 3), IGNORED_COLOR, np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
    if 0 <= ignore_index < 256:
        table[ignore_index] = IGNORED_COLOR
    return table[np.where((mask_HW >= 0) & (mask_HW < 256), mask_HW, 255)]


def overlay(
    image_HWC: NDArray[np.uint8],
    mask_HW: NDArray[np.integer],
    palette: Sequence[Rgb],
    ignore_index: int = 255,
    alpha: float = 0.5,
) -> NDArray[np.uint8]:
    """The image, (H, W, 3) or grey (H, W), blended with the mask's colours. Ignored pixels do not change."""
    base = image_HWC if image_HWC.ndim == 3 else np.repeat(image_HWC[:, :, None], 3, axis=2)
    if base.shape[:2] != mask_HW.shape:
        raise ValueError(f"image of {base.shape[:2]} and mask of {mask_HW.shape} differ in size")
    mixed = (1 - alpha) * base.astype(np.float32) + alpha * colorize(mask_HW, palette, ignore_index)
    shown = (mask_HW >= 0) & (mask_HW < len(palette)) & (mask_HW != ignore_index)
    return np.where(shown[:, :, None], np.rint(mixed), base).astype(np.uint8)


def overlay_labels(
    image_HWC: NDArray[np.uint8], labels_KHW: NDArray[np.bool_], palette: Sequence[Rgb], alpha: float = 0.4
) -> Image.Image:
    """The image (H, W, 3) blended with every label's colour, and with the labels' outlines.

    The colours of overlapping labels mix. Outlines of later labels are on top.
    """
    drawn = image_HWC.astype(np.float32)
    for label_HW, color in zip(labels_KHW, palette, strict=True):
        drawn[label_HW] = (1 - alpha) * drawn[label_HW] + alpha * np.asarray(color, np.float32)
    for label_HW, color in zip(labels_KHW, palette, strict=True):
        drawn[outline_of(label_HW)] = color
    return Image.fromarray(np.rint(drawn).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class DrawnObject:
    """An object to draw over its image."""

    box: tuple[float, float, float, float]
    """x, y, width, height in pixels."""
    rle: str
    """The mask: COCO's compressed run lengths for the image's size."""
    label: str
    """Text to draw if the box has room for it."""
    ignored: bool = False
    """Neither an object nor background: hatched, without a colour of its own."""


def object_colors(count: int) -> list[Rgb]:
    """Distinct colours for objects. They repeat after a few dozen."""
    some = default_palette(_NUM_OBJECT_COLORS + 1)[1:]
    return [some[i % _NUM_OBJECT_COLORS] for i in range(count)]


def draw_objects(image_HWC: NDArray[np.uint8], objects: Sequence[DrawnObject], alpha: float = 0.45) -> Image.Image:
    """The image with each object's mask, outline, box and label, in a colour of its own; ignored objects are hatched.

    Later objects lie under earlier ones. If objects are small, the picture is enlarged by a whole factor up to 4, so
    that they can be seen and have room for their labels.
    """
    height, width = image_HWC.shape[:2]
    font = _font(_LABEL_HEIGHT)
    factor = _enlargement(objects, max(height, width), font)
    own = object_colors(len(objects))
    colors = [IGNORED_LINES if thing.ignored else color for thing, color in zip(objects, own, strict=True)]
    drawn = image_HWC.copy()
    # Drawn on top of the enlarged picture at the end, so that lines are one pixel wide at any enlargement.
    outlines = np.zeros((height * factor, width * factor), np.uint16)
    hatched = np.zeros(outlines.shape, np.bool_)
    for number, thing in reversed(list(enumerate(objects))):
        mask = decode_mask(thing.rle, height, width)
        rows, columns = mask_extent(mask)
        part, image = mask[rows, columns], image_HWC[rows, columns]
        strength = 0.0 if thing.ignored else alpha
        tinted = np.rint((1 - strength) * image + strength * np.array(colors[number], np.float32)).astype(np.uint8)
        np.copyto(drawn[rows, columns], tinted, where=part[:, :, None])
        large_part = part.repeat(factor, axis=0).repeat(factor, axis=1)
        place = np.s_[rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor]
        outlines[place][large_part] = 0
        outlines[place][outline_of(large_part)] = number + 1
        hatched[place][large_part] = thing.ignored
    large = drawn.repeat(factor, axis=0).repeat(factor, axis=1)
    _hatch(large, hatched)
    lined = outlines > 0
    large[lined] = np.array([(0, 0, 0), *colors], np.uint8)[outlines[lined]]
    picture = Image.fromarray(large)
    draw = ImageDraw.Draw(picture)
    for thing, color in reversed(list(zip(objects, colors, strict=True))):
        x, y, w, h = (factor * value for value in thing.box)
        draw.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=color)
        if thing.label and font.getlength(thing.label) <= max(w, _LABEL_ROOM):
            inside = max(0, min(x, picture.width - font.getlength(thing.label) - 4))
            _draw_label(draw, thing.label, inside, y, color, font)
    return picture


def _enlargement(objects: Sequence[DrawnObject], longer_side: int, font: "Font") -> int:
    """The factor by which to enlarge objects so that three quarters of them have room for their labels."""
    if not objects:
        return 1
    needed = sorted(max(font.getlength(thing.label), _LABEL_ROOM) / max(thing.box[2], 1) for thing in objects)
    wanted = int(np.ceil(needed[3 * (len(needed) - 1) // 4]))
    return max(1, min(wanted, 4, _LARGEST_DRAWING // longer_side))


def _hatch(picture_HWC: NDArray[np.uint8], where_HW: NDArray[np.bool_]) -> None:
    """Draws light lines beside dark ones: one of them is visible on any picture."""
    picture_HWC[where_HW & diagonals(*where_HW.shape)] = _PAPER
    picture_HWC[where_HW & diagonals(*where_HW.shape, offset=1)] = _INK


def diagonals(height: int, width: int, *, offset: int = 0) -> NDArray[np.bool_]:
    """(height, width) diagonal lines, one pixel wide, for hatching. offset: shifts them by so many pixels."""
    lines: NDArray[np.bool_] = np.add.outer(np.arange(height), np.arange(width)) % _HATCH == offset
    return lines


def outline_of(mask_HW: NDArray[np.bool_], *, at_edges: bool = True) -> NDArray[np.bool_]:
    """The pixels of a mask with a neighbour, out of four, that is not in it.

    at_edges: whether pixels at the array's edges are among them for that reason alone.
    """
    part = np.pad(mask_HW, 1) if at_edges else np.pad(mask_HW, 1, mode="edge")
    inner = part[:-2, 1:-1] & part[2:, 1:-1] & part[1:-1, :-2] & part[1:-1, 2:]
    return mask_HW & ~inner


def _draw_label(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, color: Rgb, font: "Font") -> None:
    """Draws the text on its object's colour, above the box if there is room."""
    height = _LABEL_HEIGHT + 2
    y = y - height if y >= height else y
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.rectangle((x, y, x + font.getlength(text) + 3, y + height), fill=color)
    draw.text((x + 2, y), text, _INK if luminance > 130 else _PAPER, font)


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    captions: Sequence[str],
    *,
    legend: Sequence[tuple[str, Rgb]] = (),
    title: str = "",
    cell_width: int = 240,
    columns: int = 1,
) -> Image.Image:
    """A sheet with a group of pictures and a caption for each row of `rows`, in `columns` columns of groups.

    Pictures are (H, W, 3) or grey (H, W) uint8 of any size. They are scaled into cells, so masks must be coloured
    before. legend: names with their colours, drawn at the bottom.
    """
    gap, line_height, font, large = 10, 18, _font(13), _font(18)
    groups = [[_fitted(picture, cell_width) for picture in row] for row in rows]
    group_width = max((len(group) for group in groups), default=1) * (cell_width + gap) + gap
    columns = max(1, min(columns, len(groups)))
    width = max(columns * group_width + gap, 480)
    lines = [groups[i : i + columns] for i in range(0, len(groups), columns)]
    heights = [line_height + gap + max((p.height for group in line for p in group), default=0) for line in lines]
    legend_lines = _legend_lines(legend, width - 2 * gap, font)
    top = gap + (28 if title else 0)
    sheet = Image.new("RGB", (width, top + sum(heights) + len(legend_lines) * 24 + gap), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, gap), _shortened(title, width - 2 * gap, large), _INK, large)
    for i, (group, caption) in enumerate(zip(groups, captions, strict=True)):
        left, y = gap + (i % columns) * group_width, top + sum(heights[: i // columns])
        draw.text((left, y), _shortened(caption, group_width - 2 * gap, font), _INK, font)
        for j, picture in enumerate(group):
            sheet.paste(picture, (left + j * (cell_width + gap), y + line_height))
    _draw_legend(draw, legend_lines, gap, top + sum(heights), font)
    return sheet


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _fitted(picture: NDArray[np.uint8], width: int) -> Image.Image:
    image = Image.fromarray(picture).convert("RGB")
    scale = min(width / image.width, width / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Enlarging keeps the pixels visible; shrinking averages them.
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _shortened(text: str, width: int, font: Font) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _legend_lines(legend: Sequence[tuple[str, Rgb]], width: int, font: Font) -> list[list[tuple[float, str, Rgb]]]:
    lines: list[list[tuple[float, str, Rgb]]] = [[]] if legend else []
    x = 0.0
    for name, color in legend:
        name = _shortened(name, min(width - 30, 240), font)
        needed = 22 + font.getlength(name) + 16
        if x and x + needed > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, name, color))
        x += needed
    return lines


def _draw_legend(
    draw: ImageDraw.ImageDraw, lines: list[list[tuple[float, str, Rgb]]], left: int, top: int, font: Font
) -> None:
    for i, line in enumerate(lines):
        y = top + i * 24 + 4
        for x, name, color in line:
            draw.rectangle((left + x, y, left + x + 15, y + 15), fill=color, outline=_FAINT)
            draw.text((left + x + 22, y), name, _INK, font)
