"""Finds the pictures to segment, decodes them as packing does, and writes their masks and overlays."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.codecs.npy import ArrayLayout, Values, decode_npy
from dist_seg.data.raw.images import check_image, read_file
from dist_seg.errors import DataError, StorageError, UserError
from dist_seg.masks.drawing import contact_sheet
from dist_seg.metrics.instances import ImageInstances, ScoredInstance
from dist_seg.predict.outputs import Outputs, unused_folder
from dist_seg.storage.files import path_errors

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
RESULTS_NAME = "predictions.json"
LEGEND_NAME = "legend.png"


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """The prediction for one picture."""

    mask: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]
    """(H, W) uint8 class ids or uint16 object ids; for labels that may overlap, (K, H, W) bool layers."""
    overlay: Image.Image
    instances: Sequence[ScoredInstance] | None = None
    """All instances, the highest score first; None for other tasks."""


Segment = Callable[[Values], Segmented]
"""Segments an RGB picture (H, W, 3) uint8 or an array image (H, W, C)."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file to segment, and the stem of its outputs, relative to the output folder."""

    file: Path
    stem: Path


@dataclass(frozen=True, kw_only=True)
class SegmentedPictures:
    """The results for the pictures of one rank."""

    written: int
    """Pictures segmented."""
    found: tuple[ImageInstances, ...]
    """Instances only: those of each picture, with the path of its file as the key."""
    failed: tuple[str, ...]
    """Files that could not be read, each with the reason."""


def find_pictures(root: Path, out: Path) -> tuple[list[Picture], int]:
    """The pictures at a file or below a folder, sorted by name, and the number of other files that were skipped.

    Outputs go to the folder `out` and keep the folder structure. If `out` is below `root`, its files are not input.
    Names that would collide, such as a.jpg and a.png in one folder, keep their suffix: a.jpg.png. Raises DataError if
    there is no picture, and UserError if an output would overwrite a picture.
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
        raise UserError(
            f"--out {out}: is the folder of the pictures; give another folder, such as {unused_folder(out)}"
        )
    # Outputs of an earlier call are picture files as well.
    outputs = root / real_out.relative_to(real_root) if real_out.is_relative_to(real_root) else None
    files = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not (outputs is not None and path.is_relative_to(outputs))
    )
    pictures = [path.relative_to(root) for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise DataError(f"{root}: contains no pictures ({', '.join(sorted(SUFFIXES))})")
    taken = Counter(path.with_suffix("") for path in pictures)
    stems = {path: path.with_suffix("") if taken[path.with_suffix("")] == 1 else path for path in pictures}
    names = set(stems.values())
    # The overlay `a_overlay.png` of a.jpg must not collide with the mask of a file named a_overlay.jpg.
    clashing = {path for path, stem in stems.items() if stem.with_name(f"{stem.name}_overlay") in names}
    found = [Picture(file=root / path, stem=path if path in clashing else stem) for path, stem in stems.items()]
    return found, len(files) - len(pictures)


def _outputs(picture: Picture, out: Path) -> tuple[Path, Path, Path]:
    """Paths of a picture's mask, its overlay and its label layers, which replace the mask for labels that overlap."""
    target = out / picture.stem
    names = (f"{target.name}.png", f"{target.name}_overlay.png", f"{target.name}.tif")
    return target.with_name(names[0]), target.with_name(names[1]), target.with_name(names[2])


def output_files(pictures: Iterable[Picture], out: Path, *, layers: bool) -> Iterator[Path]:
    """The files that are written for the pictures. layers: label layers instead of masks."""
    for picture in pictures:
        mask_file, overlay_file, layers_file = _outputs(picture, out)
        yield from (layers_file if layers else mask_file, overlay_file)


def _check_outputs(pictures: Sequence[Picture], out: Path) -> None:
    inputs = {_identity(picture.file) for picture in pictures}
    targets: Iterable[Path] = (
        out / LEGEND_NAME,
        out / RESULTS_NAME,
        *(file for p in pictures for file in _outputs(p, out)),
    )
    for target in targets:
        if target.exists() and _identity(target) in inputs:
            raise UserError(
                f"--out {out}: {target} is one of the pictures and would be overwritten; give another folder, such as "
                f"{unused_folder(out)}"
            )


def _identity(file: Path) -> tuple[int, int]:
    """Identifies a file: equal for two paths of the same file, including links."""
    status = file.stat()
    return status.st_dev, status.st_ino


def predict_pictures(
    pictures: Sequence[Picture],
    outputs: Outputs,
    segment: Segment,
    *,
    array: ArrayLayout | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> SegmentedPictures:
    """Writes STEM.png (class or object ids) or STEM.tif (layers) and STEM_overlay.png for every picture, each whole or
    not at all.

    array: layout of the array images that the model was trained on; None for pictures. Files that cannot be read or are
    of another kind are named in the summary. Raises UserError if an output cannot be written.
    """
    written, failed, found = 0, [], []
    for picture in pictures:
        try:
            image_hwc = _decoded(picture.file, array)
        except (DataError, StorageError) as error:
            failed.append(str(error))
        else:
            segmented = segment(image_hwc)
            mask_file, overlay_file, layers_file = _outputs(picture, outputs.folder)
            if segmented.mask.ndim == 3:
                outputs.write(layers_file, _tiff(segmented.mask))
            else:
                outputs.write(mask_file, _png(Image.fromarray(segmented.mask)))
            outputs.write(overlay_file, _png(segmented.overlay))
            height, width = image_hwc.shape[:2]
            if segmented.instances is not None:
                instances = tuple(segmented.instances)
                found.append(
                    ImageInstances(key=str(picture.file), height=height, width=width, truth=(), predictions=instances)
                )
            written += 1
        on_picture()
    return SegmentedPictures(written=written, failed=tuple(failed), found=tuple(found))


def draw_legend(outputs: Outputs, class_names: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> None:
    """Writes legend.png: the colour of each class in the overlays."""
    legend = list(zip(class_names, palette, strict=True))
    outputs.write(outputs.folder / LEGEND_NAME, _png(contact_sheet([], [], legend=legend, title="classes")))


def _decoded(file: Path, array: ArrayLayout | None) -> Values:
    checked = check_image(read_file(file), str(file), MAX_PIXELS)
    if checked.array != array:
        found, wanted = (layout or "a picture of 8-bit RGB or grey" for layout in (checked.array, array))
        raise DataError(f"{file}: is {found}; the model was trained on {wanted}")
    return (
        decode_image(checked.data) if array is None else decode_npy(checked.data, array, checked.height, checked.width)
    )


def _tiff(layers_KHW: NDArray[np.generic]) -> bytes:
    """One page per label: 255 where the label is, 0 elsewhere."""
    pages = [Image.fromarray(np.where(layer, 255, 0).astype(np.uint8)) for layer in layers_KHW]
    encoded = io.BytesIO()
    pages[0].save(encoded, format="TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return encoded.getvalue()


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    return encoded.getvalue()
