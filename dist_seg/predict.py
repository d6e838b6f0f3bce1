"""Segmenting pictures that lie in files: prepared as packing and evaluation prepare theirs, whole or in windows."""

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dist_seg.config.schema import DataConfig
from dist_seg.data.augment import eval_transform, input_factor
from dist_seg.data.decode import decode_image
from dist_seg.data.formats.images import MAX_PIXELS, check_image, read_file
from dist_seg.data.normalize import normalization, normalize
from dist_seg.data.place import place_image
from dist_seg.drawing import contact_sheet, overlay
from dist_seg.errors import DataError, UserError
from dist_seg.runtime.files import path_errors, write_whole

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
WHOLE_PIXELS = 2048 * 2048
"""A picture of more pixels goes through the network in windows, unless a window is given."""
DEFAULT_WINDOW = 1024
_OVERLAP = 0.25

Probabilities = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""(images (1, 3, h, w), (height, width)) to class probabilities or logits (1, C, height, width)."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file to segment, and the stem of its outputs relative to the output folder."""

    file: Path
    stem: Path


@dataclass(frozen=True, kw_only=True)
class PredictionSummary:
    """What became of the pictures of one rank."""

    written: int
    failed: tuple[str, ...]
    """What could not be read, each with its reason."""


def find_pictures(root: Path, out: Path) -> tuple[list[Picture], int]:
    """The pictures at a file or below a folder, in order of their names, and how many other files were passed over.

    Outputs go to the folder `out` and keep the folders' structure. Where it lies below `root`, what is in it is no
    input. Names that would collide, such as a.jpg and a.png in one folder, keep their suffix: a.jpg.png. Raises
    DataError where there is no picture, UserError where an output would take the place of a picture.
    """
    with path_errors(root, "cannot be read", DataError):
        if root.is_file():
            pictures, passed_over = [Picture(file=root, stem=Path(root.stem))], 0
        elif root.is_dir():
            pictures, passed_over = _below(root, out)
        else:
            raise DataError(f"{root}: no such file or folder")
        _check_outputs(pictures, out)
    return pictures, passed_over


def _below(root: Path, out: Path) -> tuple[list[Picture], int]:
    real_root, real_out = root.resolve(), out.resolve()
    if real_out == real_root:
        raise UserError(f"--out {out}: the folder of the pictures themselves; give another, such as {root / 'masks'}")
    # Outputs of an earlier call are pictures, too.
    outputs = root / real_out.relative_to(real_root) if real_out.is_relative_to(real_root) else None
    files = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not (outputs is not None and path.is_relative_to(outputs))
    )
    pictures = [path.relative_to(root) for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise DataError(f"{root}: no pictures below it ({', '.join(sorted(SUFFIXES))})")
    taken = Counter(path.with_suffix("") for path in pictures)
    stems = {path: path.with_suffix("") if taken[path.with_suffix("")] == 1 else path for path in pictures}
    names = set(stems.values())
    # An output `a_overlay.png` of a.jpg must not be the mask of a file that is called a_overlay.jpg.
    clashing = {path for path, stem in stems.items() if stem.with_name(f"{stem.name}_overlay") in names}
    found = [Picture(file=root / path, stem=path if path in clashing else stem) for path, stem in stems.items()]
    return found, len(files) - len(pictures)


def _outputs(picture: Picture, out: Path) -> tuple[Path, Path]:
    """Where the mask and the overlay of a picture go."""
    target = out / picture.stem
    return target.with_name(f"{target.name}.png"), target.with_name(f"{target.name}_overlay.png")


def _check_outputs(pictures: Sequence[Picture], out: Path) -> None:
    inputs = {_identity(picture.file) for picture in pictures}
    targets: Iterable[Path] = (out / "legend.png", *(file for p in pictures for file in _outputs(p, out)))
    for target in targets:
        if target.exists() and _identity(target) in inputs:
            raise UserError(
                f"--out {out}: {target} is one of the pictures and would be overwritten; give another folder"
            )


def _identity(file: Path) -> tuple[int, int]:
    """Equal for two names of one file, links and other ways to write it included."""
    status = file.stat()
    return status.st_dev, status.st_ino


def predict_pictures(
    pictures: Sequence[Picture],
    out: Path,
    probabilities: Probabilities,
    *,
    data: DataConfig,
    palette: Sequence[tuple[int, int, int]],
    device: torch.device,
    window: int | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> PredictionSummary:
    """Writes STEM.png (class ids, grey 8 bits) and STEM_overlay.png for every picture, each whole or not at all.

    Raises UserError where that is not possible.
    window: side in pixels of the windows of larger pictures; None takes pictures whole up to `WHOLE_PIXELS`.
    """
    written, failed = 0, []
    for picture in pictures:
        try:
            image_hwc = _decoded(picture.file)
        except DataError as error:
            failed.append(str(error))
        else:
            mask_hw = predict_mask(image_hwc, probabilities, data=data, device=device, window=window)
            mask_file, overlay_file = _outputs(picture, out)
            _save(Image.fromarray(mask_hw), mask_file)
            _save(Image.fromarray(overlay(image_hwc, mask_hw, palette)), overlay_file)
            written += 1
        on_picture()
    return PredictionSummary(written=written, failed=tuple(failed))


def predict_mask(
    image_hwc: NDArray[np.uint8],
    probabilities: Probabilities,
    *,
    data: DataConfig,
    device: torch.device,
    window: int | None = None,
) -> NDArray[np.uint8]:
    """The class ids (H, W) uint8 of an RGB image (H, W, 3) uint8."""
    height, width = image_hwc.shape[:2]
    transform = eval_transform(input_scale=input_factor(data, height, width), height=height, width=width)
    norm = normalization(data)
    placed = place_image(image_hwc, transform, norm.padding).to(device)
    images = normalize([placed], [transform], norm)
    side = window or (DEFAULT_WINDOW if images.shape[-1] * images.shape[-2] > WHOLE_PIXELS else None)
    if side is None or max(images.shape[-2:]) <= side:
        scores = probabilities(images, (height, width))
    else:
        scores = _in_windows(images, probabilities, side)
        if tuple(scores.shape[-2:]) != (height, width):
            scores = torch.nn.functional.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
    mask: NDArray[np.uint8] = scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return mask


def draw_legend(out: Path, class_names: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> None:
    """legend.png: which colour of the overlays is which class."""
    _save(
        contact_sheet([], [], legend=list(zip(class_names, palette, strict=True)), title="classes"), out / "legend.png"
    )


def _in_windows(images: torch.Tensor, probabilities: Probabilities, side: int) -> torch.Tensor:
    """Overlapping windows, averaged with weights that fall towards each window's border, so that no seam shows."""
    height, width = images.shape[-2:]
    total: torch.Tensor | None = None
    weights = torch.zeros(height, width, device=images.device)
    for top in _starts(height, side):
        for left in _starts(width, side):
            part = images[..., top : top + side, left : left + side]
            h, w = part.shape[-2:]
            scores = probabilities(part, (h, w)).softmax(dim=1)
            weight = torch.outer(_ramp(h), _ramp(w)).to(images.device)
            if total is None:
                total = torch.zeros(1, scores.shape[1], height, width, device=images.device)
            total[..., top : top + h, left : left + w] += scores * weight
            weights[top : top + h, left : left + w] += weight
    assert total is not None
    return total / weights


def _starts(length: int, side: int) -> Iterator[int]:
    """Where windows begin: evenly, overlapping by a quarter or more, the last one flush with the end."""
    if length <= side:
        yield 0
        return
    count = math.ceil((length - side) / (side * (1 - _OVERLAP))) + 1
    for i in range(count):
        yield round(i * (length - side) / (count - 1))


def _ramp(length: int) -> torch.Tensor:
    distance = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(distance, distance.flip(0)) / length


def _decoded(file: Path) -> NDArray[np.uint8]:
    return decode_image(check_image(read_file(file), str(file), MAX_PIXELS).data)


def _save(image: Image.Image, file: Path) -> None:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_whole(file, encoded.getvalue())
