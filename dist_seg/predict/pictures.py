"""Pictures that lie in files, one after the other: found, decoded as packing decodes them, and their masks written."""

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
    """What a picture was segmented into."""

    mask: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.bool_]
    """(H, W): class ids, 8 bits, or ids of objects, 16 bits; or of labels that may overlap layers (K, H, W)."""
    overlay: Image.Image
    instances: Sequence[ScoredInstance] | None = None
    """All of them, the surest first; None where classes were told apart only."""


Segment = Callable[[Values], Segmented]
"""What a model makes of an RGB picture (H, W, 3), or of an array (H, W, C)."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file to segment, and the stem of its outputs relative to the output folder."""

    file: Path
    stem: Path


@dataclass(frozen=True, kw_only=True)
class PredictionSummary:
    """What became of the pictures of one rank."""

    written: int
    found: tuple[ImageInstances, ...]
    """Of instances: each picture's, under the path of its file."""
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
        raise UserError(
            f"--out {out}: the folder of the pictures themselves; give another, such as {unused_folder(out)}"
        )
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


def _outputs(picture: Picture, out: Path) -> tuple[Path, Path, Path]:
    """Where the mask, the overlay and layers of labels, which come instead of the mask, of a picture go."""
    target = out / picture.stem
    names = (f"{target.name}.png", f"{target.name}_overlay.png", f"{target.name}.tif")
    return target.with_name(names[0]), target.with_name(names[1]), target.with_name(names[2])


def output_files(pictures: Iterable[Picture], out: Path, *, layers: bool) -> Iterator[Path]:
    """What is written of the pictures. layers: of labels that may overlap."""
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
    """Equal for two names of one file, links and other ways to write it included."""
    status = file.stat()
    return status.st_dev, status.st_ino


def predict_pictures(
    pictures: Sequence[Picture],
    outputs: Outputs,
    segment: Segment,
    *,
    array: ArrayLayout | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> PredictionSummary:
    """Writes STEM.png (class or object ids) or STEM.tif (layers) and STEM_overlay.png for every picture, each whole or
    not at all.

    array: what the model was trained on; None for pictures. Files of another kind are named in the result. Raises
    UserError where that is not possible.
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
    return PredictionSummary(written=written, failed=tuple(failed), found=tuple(found))


def draw_legend(outputs: Outputs, class_names: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> None:
    """legend.png: which colour of the overlays is which class."""
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
    """A page for each label: 255 where it is, 0 elsewhere."""
    pages = [Image.fromarray(np.where(layer, 255, 0).astype(np.uint8)) for layer in layers_KHW]
    encoded = io.BytesIO()
    pages[0].save(encoded, format="TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    return encoded.getvalue()


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    return encoded.getvalue()
