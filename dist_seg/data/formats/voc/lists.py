"""The lists of Pascal VOC's layout: the images of a split, and their masks.

A line is the name of an image without suffix, in quotes if it has blanks. Or it has the paths of image and mask, as in
the augmented data set (SBD): `/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png`.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dist_seg.data.raw.classes import text_lines
from dist_seg.data.raw.images import IMAGE_SUFFIXES
from dist_seg.data.raw.listing import Pair, files_by_stem, leads_out
from dist_seg.errors import DataError

IMAGES_NAME = "JPEGImages"
LISTS_NAME = "ImageSets/Segmentation"


@dataclass(frozen=True, kw_only=True)
class VocFiles:
    """The files of a data set, by their paths below `JPEGImages` or the folder of masks, without suffix."""

    root: Path
    masks_name: str
    images: Mapping[str, Path]
    masks: Mapping[str, Path]


def voc_files(root: Path, masks_name: str) -> VocFiles:
    """Raises `DataError` for a folder that is not in VOC's layout."""
    images, masks = root / IMAGES_NAME, root / masks_name
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if missing := [folder for folder in (images, masks, root / LISTS_NAME) if not folder.is_dir()]:
        below = sorted(path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{IMAGES_NAME}"))
        hint = "; is this VOC's layout? `dist-seg pack folder` packs images and masks without lists"
        if below and images in missing:
            hint = f"; did you mean {below[0]}?"
        elif images.is_dir() and masks in missing:
            hint = "; give their folder with --masks"
        raise DataError(f"{root}: has no folder {missing[0].relative_to(root)}{hint}")
    return VocFiles(
        root=root,
        masks_name=masks_name,
        images=files_by_stem(images, apart_from=masks)[0],
        masks=files_by_stem(masks, apart_from=images)[0],
    )


def read_list(file: Path, files: VocFiles) -> list[Pair]:
    """The pair of each line, or its fault. Raises `DataError` for a list that cannot be read."""
    found: list[Pair] = []
    lines: dict[str, int] = {}
    for line, text in text_lines(file, "image"):
        pair = _pair(text, files)
        fault = pair.fault
        if not fault and pair.stem in lines:
            fault = f"{pair.stem!r} is already in line {lines[pair.stem]}"
        lines.setdefault(pair.stem, line)
        found.append(replace(pair, fault=f"{file}:{line}: {fault}" if fault else ""))
    return found


def _pair(text: str, files: VocFiles) -> Pair:
    """The pair of a line; its fault is without file and line."""
    words = text.split()
    if len(words) == 2 and all(PurePosixPath(word).suffix.lower() in IMAGE_SUFFIXES for word in words):
        return _pair_of_paths(words, files)
    name = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    stem = unicodedata.normalize("NFC", name)
    image, mask = files.images.get(stem), files.masks.get(stem)
    fault = ""
    if image is None:
        fault = f"there is no image {IMAGES_NAME}/{name} of any kind ({', '.join(sorted(IMAGE_SUFFIXES))})"
    elif mask is None:
        fault = f"there is no mask {files.masks_name}/{name} of any kind"
    return Pair(stem=stem, image=image, mask=mask, fault=fault)


def _pair_of_paths(words: Sequence[str], files: VocFiles) -> Pair:
    image, mask = (word.removeprefix("/") for word in words)
    stem = PurePosixPath(image).with_suffix("").as_posix().removeprefix(f"{IMAGES_NAME}/")
    fault = _fault_of_path(image, files.root) or _fault_of_path(mask, files.root)
    return Pair(stem=stem, image=files.root / image, mask=files.root / mask, fault=fault)


def _fault_of_path(name: str, root: Path) -> str:
    if leads_out(name):
        return f"{name!r} leads out of {root}"
    return "" if (root / name).is_file() else f"there is no file {root / name}"
