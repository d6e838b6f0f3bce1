"""Scanning a COCO annotation file: where its entries lie, so that each can be read by itself.

The file has hundreds of megabytes for COCO itself. It is scanned once, and only the position of each annotation's text
is kept in memory. When an image is packed, its part of the file is read again, in any process.
"""

import json
import mmap
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.raw.listing import leads_out
from dist_seg.errors import DataError, StorageError
from dist_seg.runtime.documents import convert

Span = tuple[int, int]
"""Byte offsets of an entry's begin and end in its file."""

_LISTS = ("images", "annotations", "categories")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf".decode("latin-1")
_BLANKS = re.compile(r"[ \t\n\r]*")
_MAX_ID = 2**63


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """An image with its annotations, as the file lists them."""

    id: int
    file_name: str
    span: Span
    annotations: tuple[Span, ...]
    repeated: tuple[int, ...]
    """Positions in `annotations` whose id occurs earlier in the file."""


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """What one annotation file lists, and where in the file. Made by `scan_annotations`."""

    file: Path
    categories: Mapping[int, str]
    things: frozenset[int]
    """The categories that the file marks as countable objects (`isthing`)."""
    faults: tuple[str, ...]
    """Images that cannot be used, each with file, id and reason."""
    strays: tuple[tuple[str, int], ...]
    """Annotations without an image. Those with the same image id are one entry: the message and their number."""
    repeated: tuple[int, ...]
    """The ids that several annotations share."""
    _images: tuple[tuple[int, str, Span], ...]
    _spans: NDArray[np.int64]
    """(annotations, 2), sorted by image."""
    _is_repeated: NDArray[np.bool_]
    _ends: NDArray[np.int64]
    """(images,): where the annotations of each image end in `_spans`."""

    def images(self) -> Iterator[ImageEntry]:
        """The images that can be used, in the order of the file."""
        begin = 0
        for (image, file_name, span), last in zip(self._images, self._ends.tolist(), strict=True):
            yield ImageEntry(
                id=image,
                file_name=file_name,
                span=span,
                annotations=tuple((first, end) for first, end in self._spans[begin:last].tolist()),
                repeated=tuple(np.flatnonzero(self._is_repeated[begin:last]).tolist()),
            )
            begin = last


def scan_annotations(file: Path) -> AnnotationFile:
    """Scan the file. Raises `DataError` naming it if it is not JSON or lacks a list of COCO's."""
    with opened(file) as data:
        try:
            scan = _Scan(file, data)
            # Latin-1 has one character for each byte, so positions in the text are byte offsets. The entries' own text
            # is decoded later, from these offsets.
            found = _walk(str(data, "latin-1"), scan.add)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: not JSON ({error})") from error
        if missing := [name for name in _LISTS if name not in found]:
            raise DataError(f"{file}: has no list of {missing[0]}; is it a COCO annotation file?")
        return scan.result()


@contextmanager
def opened(file: Path) -> Iterator[mmap.mmap]:
    """The file as memory, read on access."""
    try:
        with file.open("rb") as handle:
            if not handle.seek(0, 2):
                raise DataError(f"{file}: the file is empty")
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise StorageError(f"{file}: cannot be read: {error.strerror or error}") from error
    with data:
        yield data


@dataclass(frozen=True, kw_only=True)
class _Category:
    id: int
    name: str
    isthing: object = None


@dataclass(frozen=True, kw_only=True)
class _Image:
    id: int
    file_name: str


class _Scan:
    """Gathers what a file lists, entry by entry."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self._file, self._data = file, data
        self._categories: dict[int, str] = {}
        self._things: set[int] = set()
        self._images: dict[int, tuple[str, Span]] = {}
        self._file_names: dict[str, int] = {}
        self._num_images = 0
        self._faults: list[str] = []
        self._ids, self._image_ids, self._spans = array("q"), array("q"), array("q")
        self._has_id = bytearray()
        self._without_image: list[str] = []

    def add(self, name: str, entry: object, begin: int, end: int) -> None:
        match name:
            case "annotations":
                self._add_annotation(entry, begin, end)
            case "images":
                self._add_image(json.loads(self._data[begin:end]), (begin, end))
            case "categories":
                self._add_category(json.loads(self._data[begin:end]))

    def _add_category(self, entry: object) -> None:
        category = convert(entry, _Category, f"{self._file}: entry {len(self._categories) + 1} of categories")
        if not _is_id(category.id):
            raise DataError(f"categories has the id {category.id}, which is out of range", where=self._file)
        if category.id in self._categories:
            raise DataError(f"categories has the id {category.id} twice", where=self._file)
        self._categories[category.id] = category.name
        if category.isthing:
            self._things.add(category.id)

    def _add_image(self, entry: object, span: Span) -> None:
        self._num_images += 1
        try:
            image = convert(entry, _Image, f"{self._file}: entry {self._num_images} of images")
        except DataError as error:
            self._faults.append(str(error))
            return
        fault = self._fault_of(image)
        if fault:
            self._faults.append(f"{self._file}: {fault}")
            return
        self._file_names[image.file_name] = image.id
        self._images[image.id] = image.file_name, span

    def _fault_of(self, image: "_Image") -> str:
        """Why an image cannot be used; empty if it can."""
        number, file_name = image.id, image.file_name
        if not _is_id(number):
            return f"images has the id {number}, which is out of range"
        if number in self._images:
            return f"images has the id {number} twice, for {self._images[number][0]} and {file_name}"
        if file_name in self._file_names:
            return f"image {number} is {file_name}, and so is image {self._file_names[file_name]}"
        if not PurePosixPath(file_name).name:
            return f"image {number} has no name of a file: {file_name!r}"
        if leads_out(file_name):
            return f"image {number} lies outside the folder of its images: {file_name!r}"
        return ""

    def _add_annotation(self, entry: object, begin: int, end: int) -> None:
        fields = entry if isinstance(entry, dict) else {}
        number, image = _as_id(fields.get("id")), _as_id(fields.get("image_id"))
        if image is None:
            named = "an entry of annotations" if number is None else f"annotation {number}"
            self._without_image.append(f"{named} has no integer image_id: {json.dumps(entry)[:80]}")
            return
        self._has_id.append(number is not None)
        self._ids.append(number or 0)
        self._image_ids.append(image)
        self._spans.extend((begin, end))

    def result(self) -> AnnotationFile:
        ids, image_ids = np.frombuffer(self._ids, np.int64), np.frombuffer(self._image_ids, np.int64)
        is_repeated = _repeated(ids, np.frombuffer(self._has_id, np.bool_))
        known = np.array([*self._images], np.int64)
        by_id = np.argsort(known, kind="stable")
        positions = np.searchsorted(known[by_id], image_ids)  # of each annotation's image, in the file's list of images
        has_image = np.zeros(len(image_ids), bool)
        if len(known):
            has_image = known[by_id][np.minimum(positions, len(known) - 1)] == image_ids
            positions = by_id[np.minimum(positions, len(known) - 1)]
        order = np.flatnonzero(has_image)[np.argsort(positions[has_image], kind="stable")]
        return AnnotationFile(
            file=self._file,
            categories=self._categories,
            things=frozenset(self._things),
            faults=tuple(self._faults),
            strays=tuple(self._strays(ids[~has_image], image_ids[~has_image])),
            repeated=tuple(np.unique(ids[is_repeated]).tolist()),
            _images=tuple((number, file_name, span) for number, (file_name, span) in self._images.items()),
            _spans=np.frombuffer(self._spans, np.int64).reshape(-1, 2)[order],
            _is_repeated=is_repeated[order],
            _ends=np.cumsum(np.bincount(positions[has_image], minlength=len(known))),
        )

    def _strays(self, ids: NDArray[np.int64], image_ids: NDArray[np.int64]) -> Iterator[tuple[str, int]]:
        """One entry for each missing image, because there may be thousands of annotations."""
        by_image: dict[int, list[int]] = defaultdict(list)
        for number, image in zip(ids.tolist(), image_ids.tolist(), strict=True):
            by_image[image].append(number)
        for image, numbers in by_image.items():
            more = f" (and {len(numbers) - 1} more)" if len(numbers) > 1 else ""
            reason = f"annotation {numbers[0]}{more} is of image {image}, which is not among the images"
            yield f"{self._file}: {reason}", len(numbers)
        yield from ((f"{self._file}: {reason}", 1) for reason in self._without_image)


def _repeated(ids: NDArray[np.int64], has_id: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the id of an annotation that has one occurs earlier in the list."""
    numbers = np.flatnonzero(has_id)
    order = numbers[np.argsort(ids[numbers], kind="stable")]
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    return repeated


def _is_id(number: int) -> bool:
    return -_MAX_ID <= number < _MAX_ID


def _as_id(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and _is_id(value) else None


def _walk(text: str, add: Callable[[str, object, int, int], None]) -> frozenset[str]:
    """Call `add` with every element of COCO's lists in a JSON object and its offsets. Returns the lists found.

    Only one element is in memory at a time. Raises `ValueError` if the text is no JSON object.
    """
    decode = json.JSONDecoder().raw_decode
    found: set[str] = set()
    at, mark = _next(text, len(_BYTE_ORDER_MARK) if text.startswith(_BYTE_ORDER_MARK) else 0, "{")
    at, mark = _next(text, at, '"}')
    while mark != "}":
        name, at = decode(text, at - 1)
        at, _ = _next(text, at, ":")
        at = _blanks_end(text, at)
        if name in _LISTS and text[at : at + 1] == "[":
            found.add(name)
            at = _walk_list(text, at + 1, partial(add, name))
        else:
            _, at = decode(text, at)
        at, mark = _next(text, at, ",}")
        if mark == ",":
            at, _ = _next(text, at, '"')
    if _blanks_end(text, at) != len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return frozenset(found)


def _walk_list(text: str, at: int, add: Callable[[object, int, int], None]) -> int:
    """Walk a list. at: the position after its opening bracket. Returns the position after the closing one."""
    decode = json.JSONDecoder().raw_decode
    at = _blanks_end(text, at)
    if text[at : at + 1] == "]":
        return at + 1
    mark = ","
    while mark == ",":
        begin = _blanks_end(text, at)
        entry, end = decode(text, begin)
        add(entry, begin, end)
        at, mark = _next(text, end, ",]")
    return at


def _next(text: str, at: int, allowed: Sequence[str]) -> tuple[int, str]:
    """The position after the next character that is no blank, and that character."""
    at = _blanks_end(text, at)
    mark = text[at : at + 1]
    if not mark or mark not in allowed:
        raise json.JSONDecodeError(f"Expecting one of {' '.join(allowed)}", text, at)
    return at + 1, mark


def _blanks_end(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    assert match is not None
    return match.end()
