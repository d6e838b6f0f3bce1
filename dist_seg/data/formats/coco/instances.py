"""COCO annotations of instances: polygons, run lengths and crowds.

The images of `annotations/instances_train2017.json` lie in `train2017/` or `images/train2017/`, and become the split
`train`.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

import msgspec

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.formats.coco.annotation_file import AnnotationFile, ImageEntry, Span, opened
from dist_seg.data.formats.coco.raw_objects import raw_object
from dist_seg.data.formats.coco.splits import CocoSplit, found_splits, scan_splits
from dist_seg.data.raw.images import read_file
from dist_seg.data.raw.listing import fault_ref, file_version, refuse_faults
from dist_seg.data.raw.source import RawInstances, RawReading, SampleRef, check_classes
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.palette import Rgb, default_palette
from dist_seg.runtime.documents import convert, decode

_Side = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class _Excerpt:
    """Where the entries of an image lie in its annotation file: the payload of a sample."""

    image: Span
    annotations: list[Span]
    repeated: list[int]
    """Positions in `annotations` whose ids occur earlier in the file."""
    digest: str
    """Hash of the entries' text, which reveals that the file was changed."""


@dataclass(frozen=True, kw_only=True)
class _ImageInfo:
    id: int
    file_name: str
    height: _Side
    width: _Side


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """Made by `open_coco`."""

    splits: tuple[CocoSplit, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: tuple[AnnotationFile, ...] = field(repr=False)
    """The annotations of each split. Not sent to worker processes, which read what they need by a sample's payload."""
    reading: RawReading = RawReading()
    """Bad are annotated images that are missing or wrongly listed, annotations without an image, and repeated ids."""

    task: ClassVar[Literal["instance"]] = "instance"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "files": ()}

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return default_palette(len(self.class_names) + 1)[1:]  # the first is the background's

    def samples(self) -> Sequence[SampleRef]:
        by_split = zip(self.splits, self.files, strict=True)
        return [sample for split, file in by_split for sample in self._split_samples(split, file)]

    def load(self, sample: SampleRef) -> RawInstances:
        excerpt = decode(sample.payload, _Excerpt, sample.where)
        info, entries = _read_entries(Path(sample.mask_where), excerpt)
        height, width, name = info.height, info.width, info.file_name
        if height * width > self.reading.max_pixels:
            raise DataError(
                f"image {info.id} ({name}): {width}x{height} pixels are more than the allowed "
                f"{self.reading.max_pixels}",
                where=sample.mask_where,
            )
        classes = {category: class_id for class_id, category in enumerate(self.category_ids)}
        objects: list[RawObject] = []
        problems: list[str] = []
        for number, entry in enumerate(entries):
            try:
                if number in excerpt.repeated:
                    raise DataError("the id occurs earlier in the file; every annotation must have its own")
                objects.append(raw_object(entry, classes, height, width))
            except DataError as error:
                problems.append(f"{sample.mask_where}: annotation {entry.get('id')} of {name}: {error}")
        return RawInstances(
            image=read_file(Path(sample.where)),
            objects=tuple(objects),
            height=height,
            width=width,
            image_id=info.id,
            file_name=name,
            problems=tuple(problems),
        )

    def _split_samples(self, split: CocoSplit, file: AnnotationFile) -> Iterator[SampleRef]:
        if not self.reading.skip_bad:
            repeated_ids = (f"{file.file}: annotations has the id {number} twice" for number in file.repeated)
            strays = (reason for reason, _ in file.strays)
            refuse_faults([*file.faults, *strays, *repeated_ids], "the file")
        for number, (fault, strays_of_image) in enumerate([*((fault, 0) for fault in file.faults), *file.strays]):
            yield fault_ref(f"{split.annotations.name} fault {number}", split.name, fault, strays_of_image)
        with opened(split.annotations) as data:
            for image in file.images():
                yield self._sample(split, image, data)

    def _sample(self, split: CocoSplit, image: ImageEntry, data: mmap.mmap) -> SampleRef:
        path = split.images / image.file_name
        fault = "" if path.is_file() else f"{split.annotations}: image {image.id}: there is no file {path}"
        if fault and not self.reading.skip_bad:
            raise DataError(fault)
        digest = _digest(data[begin:end] for begin, end in (image.span, *image.annotations))
        num_bytes, version = (1, "") if fault else file_version(path)
        repeated = list(image.repeated)
        excerpt = _Excerpt(image=image.span, annotations=list(image.annotations), repeated=repeated, digest=digest)
        annotated = f"{digest} {repeated or ''}".rstrip()
        return SampleRef(
            key=str(PurePosixPath(image.file_name).with_suffix("")),
            split=split.name,
            where=str(path),
            mask_where=str(split.annotations),
            num_bytes=num_bytes + sum(end - begin for begin, end in image.annotations),
            version=f"{version} {annotated}",
            portable_version=annotated,
            payload=b"" if fault else json.dumps(vars(excerpt)).encode(),
            fault=fault,
        )


def open_coco(
    root: Path,
    splits: Sequence[tuple[str, Path, Path]] = (),
    *,
    reading: RawReading = RawReading(),
) -> CocoSource:
    """The data set below `root`, or the given splits, each with name, folder of images and annotation file.

    Reads each file once. All must have the same categories. Raises `DataError` naming the file and the id at fault.
    """
    given = [CocoSplit(name=name, images=images, annotations=file) for name, images, file in splits]
    found = given or found_splits(root, "instances")
    files = scan_splits(found)
    categories = files[0].categories
    ids = sorted(categories)
    names = tuple(categories[category] for category in ids)
    check_classes(names, str(found[0].annotations))
    return CocoSource(
        splits=tuple(found),
        class_names=names,
        category_ids=tuple(ids),
        files=files,
        reading=reading,
    )


def _read_entries(file: Path, excerpt: _Excerpt) -> tuple[_ImageInfo, list[dict[str, object]]]:
    """An image and the entries of its annotations."""
    texts = []
    try:
        with file.open("rb") as handle:
            for begin, end in (excerpt.image, *excerpt.annotations):
                handle.seek(begin)
                texts.append(handle.read(end - begin))
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=file) from error
    if _digest(texts) != excerpt.digest:
        raise StorageError("was changed while it was being packed; pack again", where=file)
    try:
        image, *entries = (convert(json.loads(text), dict[str, object], str(file)) for text in texts)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", where=file) from error
    where = f"{file}: image {image.get('id')} ({image.get('file_name')})"
    return convert(image, _ImageInfo, where), entries


def _digest(texts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text + b"\n")
    return digest.hexdigest()[:16]
