"""COCO annotations of instances: polygons, run lengths, crowds.

Images lie in folders as COCO has them, `train2017/` or `images/train/` beside `annotations/instances_train*.json`; the
part of the file's name after `instances_` says which. `train2017` becomes the split `train`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, cast

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.formats.coco.index import CocoIndex, Entry, ImageEntry, Span, opened
from dist_seg.data.formats.coco.raw_objects import raw_object
from dist_seg.data.formats.coco.splits import CocoSplit, found_splits, index_splits
from dist_seg.data.raw.images import read_file
from dist_seg.data.raw.listing import file_version, refuse_faults
from dist_seg.data.raw.source import RawInstances, RawReading, SampleRef, StrayAnnotationsError, check_classes
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.palette import Rgb, default_palette


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """Made by `open_coco`."""

    splits: tuple[CocoSplit, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    indexes: tuple[CocoIndex, ...] = field(repr=False)
    """Of each split's annotations. Not sent to worker processes: what a sample needs of them is its payload."""
    reading: RawReading = RawReading()
    """Bad are images that are annotated and not there or wrongly listed, annotations of no image, and ids that come
    again."""

    task: ClassVar[Literal["instance"]] = "instance"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "indexes": ()}

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return default_palette(len(self.class_names) + 1)[1:]  # the first is the background's

    def samples(self) -> Sequence[SampleRef]:
        parts = zip(self.splits, self.indexes, strict=True)
        return [sample for split, index in parts for sample in self._split_samples(split, index)]

    def load(self, sample: SampleRef) -> RawInstances:
        payload = cast(Mapping[str, object], json.loads(sample.payload))
        if "strays" in payload:
            raise StrayAnnotationsError(str(payload["fault"]), cast(int, payload["strays"]))
        if "fault" in payload:
            raise DataError(str(payload["fault"]))
        info, entries = _read_entries(Path(sample.mask_where), payload)
        name, where = str(info["file_name"]), f"{sample.mask_where}: image {info['id']} ({info['file_name']})"
        height, width = _side(info, "height", where), _side(info, "width", where)
        if height * width > self.reading.max_pixels:
            raise DataError(f"{where}: {width}x{height} pixels are more than the allowed {self.reading.max_pixels}")
        classes = {category: index for index, category in enumerate(self.category_ids)}
        repeated = cast(Sequence[int], payload["repeated"])
        objects: list[RawObject] = []
        problems: list[str] = []
        for number, entry in enumerate(entries):
            try:
                if number in repeated:
                    raise DataError("the id stands earlier in the file; every annotation must have its own")
                objects.append(raw_object(entry, classes, height, width))
            except DataError as error:
                problems.append(f"{sample.mask_where}: annotation {entry.get('id')} of {name}: {error}")
        return RawInstances(
            image=read_file(Path(sample.where)),
            objects=tuple(objects),
            height=height,
            width=width,
            image_id=cast(int, info["id"]),
            file_name=name,
            problems=tuple(problems),
        )

    def _split_samples(self, split: CocoSplit, index: CocoIndex) -> Iterator[SampleRef]:
        if not self.reading.skip_bad:
            repeated_ids = (f"{index.file}: annotations has the id {number} twice" for number in index.repeated)
            strays = (reason for reason, _ in index.strays)
            refuse_faults([*index.faults, *strays, *repeated_ids], "the file")
        payloads: list[dict[str, object]] = [{"fault": fault} for fault in index.faults]
        payloads += [{"fault": reason, "strays": count} for reason, count in index.strays]
        for number, fault in enumerate(payloads):
            yield SampleRef(
                key=f"{split.annotations.name} fault {number}",
                split=split.name,
                where=str(fault["fault"]),
                num_bytes=1,
                version=str(fault["fault"]),
                payload=json.dumps(fault).encode(),
            )
        with opened(split.annotations) as data:
            for image in index.images():
                path = split.images / image.file_name
                there = path.is_file()
                if not (there or self.reading.skip_bad):
                    raise DataError(_missing(image, path, split))
                digest = _digest(data[begin:end] for begin, end in (image.span, *image.annotations))
                num_bytes, version = file_version(path) if there else (1, "")
                repeated = list(image.repeated)
                annotated = f"{digest} {repeated or ''}".rstrip()
                payload: dict[str, object] = {
                    "image": image.span,
                    "annotations": image.annotations,
                    "repeated": repeated,
                    "digest": digest,
                }
                if not there:
                    payload = {"fault": _missing(image, path, split)}
                yield SampleRef(
                    key=str(PurePosixPath(image.file_name).with_suffix("")),
                    split=split.name,
                    where=str(path),
                    mask_where=str(split.annotations),
                    num_bytes=num_bytes + sum(end - begin for begin, end in image.annotations),
                    version=f"{version} {annotated}",
                    portable_version=annotated,
                    payload=json.dumps(payload).encode(),
                )


def open_coco(
    root: Path,
    splits: Sequence[tuple[str, Path, Path]] = (),
    *,
    reading: RawReading = RawReading(),
) -> CocoSource:
    """The data set below `root`, or the given splits: name, folder of images, annotation file, each.

    Goes through each file once. All must have the same categories. Raises `DataError` that names the file and the id
    at fault.
    """
    found = [CocoSplit(name=n, images=i, annotations=a) for n, i, a in splits] or found_splits(root, "instances")
    indexes = index_splits(found)
    categories = indexes[0].categories
    ids = sorted(categories)
    names = tuple(categories[category] for category in ids)
    check_classes(names, str(found[0].annotations))
    return CocoSource(
        splits=tuple(found),
        class_names=names,
        category_ids=tuple(ids),
        indexes=indexes,
        reading=reading,
    )


def _missing(image: ImageEntry, path: Path, split: CocoSplit) -> str:
    return f"{split.annotations}: image {image.id}: there is no file {path}"


def _read_entries(file: Path, payload: Mapping[str, object]) -> tuple[Entry, list[Entry]]:
    """An image's entry and those of its annotations."""
    spans = [payload["image"], *cast(Sequence[object], payload["annotations"])]
    texts = []
    try:
        with file.open("rb") as handle:
            for begin, end in cast(Sequence[Span], spans):
                handle.seek(begin)
                texts.append(handle.read(end - begin))
    except OSError as error:
        raise StorageError(f"{file}: cannot be read: {error.strerror or error}") from error
    if _digest(texts) != payload["digest"]:
        raise StorageError(f"{file}: was changed while it was being packed; pack again")
    try:
        info, *entries = (cast(Entry, json.loads(text)) for text in texts)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8: {error}") from error
    return info, entries


def _digest(texts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text + b"\n")
    return digest.hexdigest()[:16]


def _side(info: Entry, name: str, where: str) -> int:
    value = info.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{where}: its {name} is {value!r}, must be a number of pixels")
    return value
