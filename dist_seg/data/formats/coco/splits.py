"""The parts of a COCO data set: annotation files, and where the images of each lie.

Images lie in folders as COCO has them, `train2017/` or `images/train/` beside `annotations/KIND_train*.json`; the part
of the file's name after the kind says which. `train2017` becomes the split `train`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.formats.coco.annotation_file import AnnotationFile, scan_annotations
from dist_seg.errors import DataError

_PART = re.compile(r"\w[\w-]*")
_YEAR = re.compile(r"[_-]?(19|20)\d\d$")


@dataclass(frozen=True, kw_only=True)
class CocoSplit:
    """One annotation file with the folder that its images lie in."""

    name: str
    annotations: Path
    images: Path


def split_name(part: str) -> str:
    """`train` of `train2017`."""
    return _YEAR.sub("", part) or part


def images_of(root: Path, part: str) -> Path | None:
    """The folder of a part's images, where there is one."""
    return next((path for path in (root / part, root / "images" / part) if path.is_dir()), None)


def found_splits(root: Path, kind: str) -> list[CocoSplit]:
    """A split for every `annotations/KIND_NAME.json`. Raises `DataError` where there is none, or are no images."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folder = root / "annotations"
    found = []
    for file in sorted(folder.glob(f"{kind}_*.json")) if folder.is_dir() else []:
        part = file.stem.removeprefix(f"{kind}_")
        if not _PART.fullmatch(part):
            continue
        images = images_of(root, part) or root / "images"
        if not images.is_dir():
            raise DataError(f"{file}: its images are neither in {root / part} nor in {root / 'images' / part}")
        found.append(CocoSplit(name=split_name(part), annotations=file, images=images))
    if not found:
        raise DataError(f"{root}: no annotations/{kind}_NAME.json; give each split with --split")
    check_split_names(folder, [split.name for split in found])
    return found


def check_split_names(folder: Path, names: Sequence[str]) -> None:
    """Raises `DataError` where several parts would be one split."""
    if len(set(names)) < len(names):
        raise DataError(f"{folder}: several files for one split ({', '.join(names)}); give each split with --split")


def scan_splits(splits: Sequence[CocoSplit]) -> tuple[AnnotationFile, ...]:
    """Read each annotation file once. Raises `DataError` for missing images and for differing categories."""
    for split in splits:
        if not split.images.is_dir():
            raise DataError(f"{split.images}: no such folder; the images of split {split.name} should lie there")
    files = tuple(scan_annotations(split.annotations) for split in splits)
    for file in files:
        if file.categories != files[0].categories:
            raise DataError(f"has other categories than {files[0].file}; they must be the same", where=file.file)
    return files
