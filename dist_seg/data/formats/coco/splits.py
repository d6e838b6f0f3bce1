"""The splits of a COCO data set: its annotation files, and the folder of images of each.

The images of `annotations/KIND_train2017.json` lie in `train2017/` or `images/train2017/`, and become the split
`train`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.formats.coco.annotation_file import AnnotationFile, scan_annotations
from dist_seg.errors import DataError

_FOLDER = re.compile(r"\w[\w-]*")
_YEAR = re.compile(r"[_-]?(19|20)\d\d$")


@dataclass(frozen=True, kw_only=True)
class CocoSplit:
    """One annotation file with the folder that its images lie in."""

    name: str
    annotations: Path
    images: Path


def split_name(folder: str) -> str:
    """`train` for the folder `train2017`."""
    return _YEAR.sub("", folder) or folder


def images_of(root: Path, folder: str) -> Path | None:
    """Where the images of `folder` lie; None if there is no such folder."""
    return next((path for path in (root / folder, root / "images" / folder) if path.is_dir()), None)


def found_splits(root: Path, kind: str) -> list[CocoSplit]:
    """A split for every `annotations/KIND_NAME.json`. Raises `DataError` if there is none, or if images are missing."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    annotations = root / "annotations"
    found = []
    for file in sorted(annotations.glob(f"{kind}_*.json")) if annotations.is_dir() else []:
        folder = file.stem.removeprefix(f"{kind}_")
        if not _FOLDER.fullmatch(folder):
            continue
        images = images_of(root, folder) or root / "images"
        if not images.is_dir():
            raise DataError(f"{file}: its images are neither in {root / folder} nor in {root / 'images' / folder}")
        found.append(CocoSplit(name=split_name(folder), annotations=file, images=images))
    if not found:
        raise DataError(f"{root}: no annotations/{kind}_NAME.json; give each split with --split")
    check_split_names(annotations, [split.name for split in found])
    return found


def check_split_names(folder: Path, names: Sequence[str]) -> None:
    """Raises `DataError` if two splits have the same name."""
    if len(set(names)) < len(names):
        raise DataError(f"{folder}: several files for one split ({', '.join(names)}); give each split with --split")


def scan_splits(splits: Sequence[CocoSplit]) -> tuple[AnnotationFile, ...]:
    """Read each annotation file once. Raises `DataError` for missing images and for differing categories."""
    for split in splits:
        if not split.images.is_dir():
            raise DataError(f"{split.images}: no such folder; the images of split {split.name} should be there")
    files = tuple(scan_annotations(split.annotations) for split in splits)
    for file in files:
        if file.categories != files[0].categories:
            raise DataError(f"has other categories than {files[0].file}; they must be the same", where=file.file)
    return files
