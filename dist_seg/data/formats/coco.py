"""COCO annotations of instances: polygons, run lengths, crowds.

Images lie in folders as COCO has them, `train2017/` or `images/train/` beside `annotations/instances_train*.json`; the
part of the file's name after `instances_` says which. `train2017` becomes the split `train`.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, cast

from dist_seg.data.formats import RawInstances, SampleRef, check_classes
from dist_seg.data.formats.coco_objects import Entry, raw_object
from dist_seg.data.formats.images import read_file
from dist_seg.data.formats.listing import file_version
from dist_seg.data.instances import RawObject
from dist_seg.data.manifest import IGNORE_INDEX, Rgb
from dist_seg.drawing import default_palette
from dist_seg.errors import DataError

_ANNOTATION_FILE = re.compile(r"instances_(\w[\w-]*)\.json")
_YEAR = re.compile(r"[_-]?(19|20)\d\d$")


@dataclass(frozen=True, kw_only=True)
class CocoSplit:
    """One annotation file with the folder that its images lie in."""

    name: str
    annotations: Path
    images: Path


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """Made by `open_coco`."""

    splits: tuple[CocoSplit, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    skip_bad: bool = False
    """An image that is annotated and not there is a bad sample instead of an error."""

    task: ClassVar[Literal["instance"]] = "instance"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return default_palette(len(self.class_names) + 1)[1:]  # the first is the background's

    def samples(self) -> Sequence[SampleRef]:
        return [sample for split in self.splits for sample in self._split_samples(split)]

    def load(self, sample: SampleRef) -> RawInstances:
        document = cast(Mapping[str, object], json.loads(sample.payload))
        info = cast(Entry, document["image"])
        height, width = cast(int, info["height"]), cast(int, info["width"])
        classes = {category: index for index, category in enumerate(self.category_ids)}
        objects: list[RawObject] = []
        problems: list[str] = []
        for entry in cast(Sequence[Entry], document["annotations"]):
            try:
                objects.append(raw_object(entry, classes, height, width))
            except DataError as error:
                problems.append(f"{document['file']}: annotation {entry.get('id')} of {info['file_name']}: {error}")
        return RawInstances(
            image=read_file(Path(sample.where)),
            objects=tuple(objects),
            height=height,
            width=width,
            image_id=cast(int, info["id"]),
            file_name=str(info["file_name"]),
            problems=tuple(problems),
        )

    def _split_samples(self, split: CocoSplit) -> Iterator[SampleRef]:
        document = _read(split.annotations)
        by_image = _by_image(document, split.annotations)
        for info in _entries(document, "images", split.annotations):
            path = split.images / str(info["file_name"])
            if not path.is_file() and not self.skip_bad:
                raise DataError(f"{split.annotations}: image {info['id']}: there is no file {path}")
            content = {"image": info, "annotations": by_image.get(cast(int, info["id"]), [])}
            digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
            payload = json.dumps({"file": str(split.annotations), **content}).encode()
            num_bytes, version = file_version(path) if path.is_file() else (1, "")
            yield SampleRef(
                key=str(PurePosixPath(str(info["file_name"])).with_suffix("")),
                split=split.name,
                where=str(path),
                mask_where=str(split.annotations),
                num_bytes=num_bytes + len(payload),
                version=f"{version} {digest}",
                payload=payload,
            )


def open_coco(root: Path, splits: Sequence[tuple[str, Path, Path]] = (), *, skip_bad: bool = False) -> CocoSource:
    """The data set below `root`, or the given splits: name, folder of images, annotation file, each.

    All files must have the same categories. Raises `DataError` that names the file and the id at fault.
    """
    found = [CocoSplit(name=n, images=i, annotations=a) for n, i, a in splits] or _found_splits(root)
    categories: dict[int, str] | None = None
    for split in found:
        own = _categories(_read(split.annotations), split.annotations)
        if categories is not None and own != categories:
            raise DataError(
                f"{split.annotations}: has other categories than {found[0].annotations}; they must be the same"
            )
        categories = own
    assert categories is not None
    ids = sorted(categories)
    names = tuple(categories[category] for category in ids)
    check_classes(names, str(found[0].annotations))
    return CocoSource(splits=tuple(found), class_names=names, category_ids=tuple(ids), skip_bad=skip_bad)


def _found_splits(root: Path) -> list[CocoSplit]:
    folder = root / "annotations"
    files = sorted(folder.glob("instances_*.json")) if folder.is_dir() else []
    found = []
    for file in files:
        match = _ANNOTATION_FILE.fullmatch(file.name)
        if match is None:
            continue
        part = match.group(1)
        images = next((p for p in (root / part, root / "images" / part, root / "images") if p.is_dir()), None)
        if images is None:
            raise DataError(f"{file}: its images are neither in {root / part} nor in {root / 'images' / part}")
        found.append(CocoSplit(name=_YEAR.sub("", part) or part, annotations=file, images=images))
    if not found:
        raise DataError(
            f"{root}: no annotations/instances_NAME.json; give each part with --part NAME IMAGES ANNOTATIONS.json"
        )
    names = [split.name for split in found]
    if len(set(names)) < len(names):
        raise DataError(f"{folder}: several files for one split ({', '.join(names)}); give each with --part")
    return found


def _read(file: Path) -> Mapping[str, object]:
    try:
        document = json.loads(read_file(file))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise DataError(f"{file}: not annotations of COCO: a JSON object with images, annotations and categories")
    return cast(Mapping[str, object], document)


def _entries(document: Mapping[str, object], name: str, file: Path) -> list[Entry]:
    """The objects of a list, each with an integer id that no other has."""
    entries = document.get(name)
    if not isinstance(entries, list):
        raise DataError(f"{file}: has no list of {name}; is it a file of COCO's instances?")
    seen: set[int] = set()
    needed = {"images": ("file_name", "height", "width"), "categories": ("name",), "annotations": ("image_id",)}[name]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            raise DataError(f"{file}: an entry of {name} has no integer id: {str(entry)[:80]}")
        if entry["id"] in seen:
            raise DataError(f"{file}: {name} has the id {entry['id']} twice")
        seen.add(entry["id"])
        if missing := [key for key in needed if key not in entry]:
            raise DataError(f"{file}: {name} id {entry['id']} lacks {', '.join(missing)}")
    return cast(list[Entry], entries)


def _categories(document: Mapping[str, object], file: Path) -> dict[int, str]:
    return {cast(int, entry["id"]): str(entry["name"]) for entry in _entries(document, "categories", file)}


def _by_image(document: Mapping[str, object], file: Path) -> dict[int, list[Entry]]:
    known = {cast(int, entry["id"]) for entry in _entries(document, "images", file)}
    by_image: dict[int, list[Entry]] = defaultdict(list)
    for entry in _entries(document, "annotations", file):
        image = entry["image_id"]
        if image not in known:
            raise DataError(f"{file}: annotation {entry['id']} is of image {image}, which is not among the images")
        by_image[image].append(entry)
    return by_image
