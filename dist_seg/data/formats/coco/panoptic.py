"""COCO's panoptic annotations as class masks: the pixels of a segment get the class of its category.

`annotations/panoptic_NAME.json` lists the category of each segment. The PNGs in `annotations/panoptic_NAME/` hold its
pixels: red + 256 green + 65536 blue is the segment's id. 0 is no segment, and ignored.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.coco.annotation_file import AnnotationFile, opened
from dist_seg.data.formats.coco.splits import CocoSplit, found_splits, scan_splits
from dist_seg.data.raw.images import read_mask
from dist_seg.data.raw.listing import Pair, fault_ref, leads_out, pair_ref, read_pair, refuse_faults
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef, check_classes
from dist_seg.errors import DataError, UserError
from dist_seg.masks.palette import Rgb, default_palette
from dist_seg.runtime.documents import convert, decode

_MAX_SEGMENT = 256**3 - 1
_THINGS = "things"


@dataclass(frozen=True, kw_only=True)
class _Segment:
    id: int
    category_id: int


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    file_name: str
    segments_info: list[_Segment]


@dataclass(frozen=True, kw_only=True)
class PanopticSource:
    """Made by `open_coco_panoptic`."""

    splits: tuple[CocoSplit, ...]
    masks: tuple[Path, ...]
    """The folder of PNGs of each split."""
    class_names: tuple[str, ...]
    classes: Mapping[int, int]
    """Class id of every category id."""
    files: tuple[AnnotationFile, ...] = field(repr=False)
    """The annotations of each split. Not sent to worker processes: a sample's payload has what is needed of them."""
    reading: RawReading = RawReading()
    """Images and annotations that cannot be used are bad."""
    ignore_index: int = IGNORE_INDEX

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "files": ()}

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return default_palette(len(self.class_names))

    def samples(self) -> Sequence[SampleRef]:
        refs: list[SampleRef] = []
        for split, masks, file in zip(self.splits, self.masks, self.files, strict=True):
            # An annotation is an image's mask here: one without an image is a sample that is left out.
            faults = (*file.faults, *(fault for fault, _ in file.strays))
            name = split.annotations.name
            refs += [fault_ref(f"{name} fault {i}", split.name, fault) for i, fault in enumerate(faults)]
            refs += self._split_samples(split, masks, file)
        if not self.reading.skip_bad:
            refuse_faults([ref.fault for ref in refs if ref.fault], "the file")
        return refs

    def load(self, sample: SampleRef) -> RawSample:
        image, mask_file = read_pair(sample)
        segments = decode(sample.payload, list[tuple[int, int]], sample.where)
        mask = read_mask(mask_file, sample.mask_where, self.reading.max_pixels)
        if not mask.is_color:
            raise DataError(
                f"{sample.mask_where}: not in colours; a panoptic PNG is RGB, and its colours are the ids of segments"
            )
        return RawSample(image=image, mask=_class_ids(mask.values, segments, sample.mask_where))

    def _split_samples(self, split: CocoSplit, masks: Path, file: AnnotationFile) -> Iterator[SampleRef]:
        with opened(split.annotations) as data:
            for image in file.images():
                key = str(PurePosixPath(image.file_name).with_suffix(""))
                try:
                    mask_name, segments = _segments([data[begin:end] for begin, end in image.annotations], self.classes)
                    pair = Pair(stem=key, image=split.images / image.file_name, mask=masks / mask_name)
                    if missing := [path for path in (pair.image, pair.mask) if path and not path.is_file()]:
                        raise DataError(f"there is no file {missing[0]}")
                except DataError as error:
                    fault = f"{split.annotations}: image {image.id} ({image.file_name}): {error}"
                    yield fault_ref(key, split.name, fault)
                else:
                    payload = json.dumps(segments).encode()
                    version = hashlib.sha256(payload).hexdigest()[:16]
                    yield pair_ref(pair, split.name, version, payload)


def open_coco_panoptic(
    root: Path,
    splits: Sequence[tuple[str, Path, Path, Path]] = (),
    *,
    merge_things: bool = False,
    reading: RawReading = RawReading(),
) -> PanopticSource:
    """The data set below `root`, or the given splits: name, folder of images, annotation file and folder of PNGs.

    Classes follow the order of the category ids. merge_things: all categories marked as things become one class,
    `things`, which is the first. Reads each file once. Raises `DataError` naming the file and the id at fault.
    """
    given = [CocoSplit(name=name, images=images, annotations=file) for name, images, file, _ in splits]
    found = given or found_splits(root, "panoptic")
    masks = [folder for _, _, _, folder in splits] or [split.annotations.with_suffix("") for split in found]
    for folder in masks:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; the PNGs of segments should lie there")
    files = scan_splits(found)
    categories, things = files[0].categories, files[0].things if merge_things else frozenset[int]()
    if merge_things and not things:
        raise UserError(f"{found[0].annotations}: marks no category as a thing (isthing), so there is nothing to merge")
    kept = sorted(categories.keys() - things)
    names = (*([_THINGS] if things else []), *(categories[number] for number in kept))
    check_classes(names, str(found[0].annotations))
    first = 1 if things else 0
    return PanopticSource(
        splits=tuple(found),
        masks=tuple(masks),
        class_names=names,
        classes={**dict.fromkeys(things, 0), **{number: i for i, number in enumerate(kept, first)}},
        files=files,
        reading=reading,
    )


def _segments(texts: Sequence[bytes], classes: Mapping[int, int]) -> tuple[str, list[tuple[int, int]]]:
    """The PNG of an image's annotation, and (id, class id) of its segments, sorted. Raises `DataError`."""
    if len(texts) != 1:
        raise DataError(f"has {len(texts) or 'no'} annotation{'s' * (len(texts) > 1)}; it must have one")
    try:
        annotation = convert(json.loads(texts[0]), _Annotation, "")
    except UnicodeDecodeError as error:
        raise DataError(f"its annotation is not UTF-8: {error}") from error
    if leads_out(annotation.file_name):
        raise DataError(f"its PNG lies outside the folder of PNGs: {annotation.file_name!r}")
    segments: dict[int, int] = {}
    for segment in annotation.segments_info:
        if not 0 < segment.id <= _MAX_SEGMENT:
            raise DataError(f"a segment has the id {segment.id}; it must be from 1 to {_MAX_SEGMENT}")
        if segment.category_id not in classes:
            raise DataError(
                f"segment {segment.id} is of category {segment.category_id}, which is not among the categories"
            )
        if segment.id in segments:
            raise DataError(f"segment {segment.id} is listed twice")
        segments[segment.id] = classes[segment.category_id]
    return annotation.file_name, sorted(segments.items())


def _class_ids(colors: NDArray[np.integer], segments: Sequence[tuple[int, int]], where: str) -> NDArray[np.uint8]:
    """(H, W) from (H, W, 3) colours. Raises `DataError` naming a segment that is not listed and its position."""
    wide = colors.astype(np.int32)
    ids = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    known = np.array([0, *(number for number, _ in segments)], np.int32)  # ascending
    classes = np.array([IGNORE_INDEX, *(class_id for _, class_id in segments)], np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ids.ravel())) + 1])  # of runs, which are far fewer than pixels
    lengths = np.diff(starts, append=ids.size)
    runs = ids.ravel()[starts]
    at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    if (wrong := known[at] != runs).any():
        first = int(wrong.argmax())
        y, x = np.unravel_index(int(starts[first]), ids.shape)
        raise DataError(
            f"{where}: segment {runs[first]} at (x={x}, y={y}) ({int(lengths[wrong].sum())} such pixels) is not in the "
            "image's segments_info; do the PNGs belong to this file?"
        )
    return np.repeat(classes[at], lengths).reshape(ids.shape)
