"""Instances in COCO's results format: one JSON file that pycocotools loads."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.raw.images import read_file
from dist_seg.errors import DataError, UserError
from dist_seg.metrics.instances import ImageInstances
from dist_seg.runtime.documents import decode


@dataclass(frozen=True, kw_only=True)
class _Image:
    """An entry of `images` in COCO's annotations."""

    file_name: str
    id: int | float | str


@dataclass(frozen=True, kw_only=True)
class _Annotations:
    """The part of COCO's annotations that is read."""

    images: tuple[_Image, ...]


def running_ids(files: Sequence[Path]) -> dict[Path, int]:
    """Ids that count the pictures from 1."""
    return {file: number for number, file in enumerate(files, start=1)}


def annotated_ids(files: Sequence[Path], root: Path, annotations: Path) -> dict[Path, int]:
    """The ids that COCO annotations give to the pictures below `root`, matched by file name.

    A picture is matched by its path below the root or, if no path matches, by its name alone. Raises UserError for a
    picture that the annotations do not list, or list more than once.
    """
    by_name: dict[str, list[int]] = defaultdict(list)
    for name, number in _images(annotations):
        by_name[name].append(number)
        if (alone := Path(name).name) != name:
            by_name[alone].append(number)
    ids = {}
    for file in files:
        path = _name(file, root)
        found = by_name.get(path) or by_name.get(file.name) or []
        if len(found) != 1:
            how = "several images" if found else "no image"
            raise UserError(
                f"--images {annotations}: has {how} with the file name {path}, which is one of the pictures"
            )
        ids[file] = found[0]
    return ids


def _images(annotations: Path) -> list[tuple[str, int]]:
    """File name and id of every image."""
    try:
        document = decode(read_file(annotations), _Annotations, str(annotations))
    except DataError as error:
        raise DataError(f"{error}; --images needs COCO annotations, whose images have file_name and id") from error
    try:
        return [(image.file_name, int(image.id)) for image in document.images]
    except (ValueError, OverflowError) as error:
        raise DataError(f"{annotations}: the id of an image is not a whole number: {error}") from error


def coco_results(
    found: Sequence[ImageInstances], ids: Mapping[Path, int], root: Path, category_ids: Sequence[int]
) -> list[dict[str, object]]:
    """COCO's results: box (x, y, width, height in pixels), score and run-length mask, with the picture's file name.

    category_ids: the id of each class. root: if it is a folder, file names are relative to it.
    """
    return [
        {
            "image_id": ids[Path(picture.key)],
            "file_name": _name(Path(picture.key), root),
            "category_id": category_ids[instance.class_id],
            "bbox": [round(value, 3) for value in instance.bbox],
            "score": instance.score,
            "segmentation": {"size": [picture.height, picture.width], "counts": instance.rle},
        }
        for picture in found
        for instance in picture.predictions
    ]


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if root.is_dir() else file.name
