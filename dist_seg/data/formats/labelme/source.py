"""LabelMe: a JSON file of polygons, rectangles and circles for every image, in folders and sub-folders.

The image is in the file (imageData), or lies where its imagePath says, relative to the file.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.labelme.shapes import LabelmeFile, draw_shapes, embedded_image, read_labelme
from dist_seg.data.raw.classes import IGNORED_NAMES, text_lines
from dist_seg.data.raw.images import IMAGE_SUFFIXES, check_image, read_file
from dist_seg.data.raw.listing import Pair, files_below, listed_refs, refuse_faults
from dist_seg.data.raw.meaning import Meaning
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef, check_classes
from dist_seg.data.raw.splitting import Dividing, Division, divide
from dist_seg.errors import DataError, StorageError
from dist_seg.masks.palette import Rgb, default_palette

Unlabelled = Literal["background", "ignore"]

_LABELS_NAMES = ("labels.txt", "classes.txt")
_IGNORED_LABELS = IGNORED_NAMES | {"__ignore__"}
_BACKGROUND_LABELS = ("_background_", "background")


@dataclass(frozen=True, kw_only=True)
class LabelmeClasses:
    """What labels stand for."""

    names: tuple[str, ...]
    ids: Mapping[str, int]
    """Class id, or the ignore index, of every label."""
    unlabelled: int
    """Of pixels under no shape."""


@dataclass(frozen=True, kw_only=True)
class LabelmeSource:
    """Made by `open_labelme`."""

    listed: tuple[tuple[str, Pair], ...] = field(repr=False)
    """The split of every JSON file, which is the mask of a pair; the image is the same file if it is embedded. Not sent
    to worker processes, which do not need them."""
    classes: LabelmeClasses
    division: Division
    reading: RawReading = RawReading()
    """Bad are an image without a file, a file without an image, and one that is none of LabelMe's."""
    notes: tuple[str, ...] = ()
    """What the user should see before packing."""
    ignore_index: int = IGNORE_INDEX

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "listed": ()}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return default_palette(len(self.class_names))

    @property
    def meaning(self) -> Meaning:
        """For a later run."""
        return {
            "label": {label: self._name(class_id) for label, class_id in self.classes.ids.items()},
            "pixels": {"under no shape": self._name(self.classes.unlabelled)},
        }

    def samples(self) -> Sequence[SampleRef]:
        version = f"{sorted(self.classes.ids.items())} {self.classes.unlabelled}"
        return listed_refs(self.listed, self.reading, version, "the files")

    def load(self, sample: SampleRef) -> RawSample:
        file, max_pixels = read_labelme(Path(sample.mask_where)), self.reading.max_pixels
        if file.height * file.width > max_pixels:
            raise DataError(
                f"{sample.mask_where}: {file.width}x{file.height} pixels are more than the allowed {max_pixels}"
            )
        data = file.image_data
        image = read_file(Path(sample.where)) if data is None else embedded_image(data, sample.mask_where)
        if not (file.height and file.width):
            upright = check_image(image, sample.where, max_pixels)
            file = replace(file, height=file.height or upright.height, width=file.width or upright.width)
        classes = self.classes
        return RawSample(image=image, mask=draw_shapes(file, classes.ids, classes.unlabelled, sample.mask_where))

    def _name(self, class_id: int) -> str | None:
        return None if class_id == IGNORE_INDEX else self.class_names[class_id]


def open_labelme(
    root: Path,
    *,
    classes: Path | None = None,
    unlabelled: Unlabelled = "background",
    dividing: Dividing = Dividing(),
    reading: RawReading = RawReading(),
    apart_from: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelmeSource:
    """The files below `root`, each of which is read once here.

    classes: a text file with a label a line, in the order of the ids; None takes `labels.txt` or `classes.txt` from
    `root` or beside it, else the labels found, sorted. unlabelled: whether pixels under no shape are a class of their
    own (`_background_`, the first unless the file has it elsewhere) or ignored. apart_from: a folder below
    `root` that is not entered. `progress` is told files read and in all. Raises `DataError` for a folder without files.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    paths = list(files_below(root, apart_from))
    files = [path for path in paths if path.suffix.lower() == ".json"]
    if not files:
        raise DataError(f"{root}: holds no JSON files; is this a folder of LabelMe's?")
    found = _read_all(root, files, progress)
    pairs, labels = [*found.pairs, *_lone_images(root, paths, found.images)], found.labels
    stems = [pair.stem for pair in pairs]
    division = divide(root, stems, dividing)
    classes = classes or _labels_file(root)
    if not (classes or labels):
        refuse_faults([pair.fault for pair in pairs if pair.fault], "the files")
        raise DataError(f"{root}: no file has a shape, so that there are no classes")
    first, others = (sorted(part) for part in (labels & {*_BACKGROUND_LABELS}, labels - {*_BACKGROUND_LABELS}))
    listed_labels = _read_labels(classes) if classes else [*first, *others]
    table = _class_table(listed_labels, labels, unlabelled, str(classes or root))
    note = f"no {_LABELS_NAMES[0]}: classes found in the shapes: {', '.join(table.names)}"
    return LabelmeSource(
        listed=tuple(zip(division.splits(stems), pairs, strict=True)),
        division=division,
        classes=table,
        reading=reading,
        notes=(f"classes from {classes}" if classes else note,),
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the files list."""

    pairs: Sequence[Pair]
    images: Set[Path]
    """The paths that they name, also in files that embed their image."""
    labels: Set[str]


def _read_all(root: Path, files: Sequence[Path], progress: Callable[[int, int], None] | None) -> _Found:
    pairs: list[Pair] = []
    images: set[Path] = set()
    labels: set[str] = set()
    file_of: dict[str, Path] = {}
    for number, file in enumerate(files, 1):
        stem = unicodedata.normalize("NFC", file.relative_to(root).with_suffix("").as_posix())
        try:
            contents = read_labelme(file)
            image = _image_path(root, file, contents)
            if not contents.image_data and (other := file_of.setdefault(os.path.abspath(image), file)) != file:
                raise DataError(f"is of {image}, as is {other}; an image must have one file", where=file)
        except (DataError, StorageError) as error:
            pairs.append(Pair(stem=stem, image=None, mask=file, fault=str(error)))
        else:
            pairs.append(Pair(stem=stem, image=image if contents.image_data is None else file, mask=file))
            images.add(image)
            labels.update(shape.label for shape in contents.shapes)
        if progress:
            progress(number, len(files))
    return _Found(pairs=pairs, images=images, labels=labels)


def _image_path(root: Path, file: Path, contents: LabelmeFile) -> Path:
    """Where the image lies. Raises `DataError` unless it is there, below `root`, or in the file itself."""
    path = Path(os.path.normpath(file.parent / contents.image_path))
    if contents.image_data is not None:
        return path
    is_below = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))  # of `.` every relative path would be
    if "\0" in contents.image_path or not is_below:
        raise DataError(f"{file}: its imagePath {contents.image_path!r} leads out of {root}; pack the folder of both")
    if not path.is_file():
        raise DataError(f"{file}: there is no file {path}, which is its imagePath")
    return path


def _lone_images(root: Path, paths: Iterable[Path], images: Set[Path]) -> list[Pair]:
    """The images that no file names."""
    known = {unicodedata.normalize("NFC", os.path.abspath(image)) for image in images}
    return [
        Pair(
            stem=path.relative_to(root).as_posix(),
            image=path,
            mask=None,
            fault=f"{path}: no JSON file is of this image",
        )
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and unicodedata.normalize("NFC", os.path.abspath(path)) not in known
    ]


def _labels_file(root: Path) -> Path | None:
    candidates = [folder / name for folder in (root, root.absolute().parent) for name in _LABELS_NAMES]
    return next((path for path in candidates if path.is_file()), None)


def _read_labels(path: Path) -> list[str]:
    """One a line, in the order of the ids. Raises `DataError` for a label that comes twice."""
    labels = [text for _, text in text_lines(path)]
    check_classes(labels, str(path))
    return labels


def _class_table(labels: Sequence[str], found: Set[str], unlabelled: Unlabelled, where: str) -> LabelmeClasses:
    """The classes, with the background where `unlabelled` asks for it, and without what is to be ignored.

    found: in the shapes; those that are ignored by their names need not be among the labels.
    """
    ignored = sorted(label for label in {*labels, *found} if label.lower() in _IGNORED_LABELS)
    names = [label for label in labels if label not in ignored]
    background = next((label for label in _BACKGROUND_LABELS if label in names), None)
    if unlabelled == "background" and background is None:
        background = _BACKGROUND_LABELS[0]
        names = [background, *names]
    check_classes(names, where)
    ids = {**dict.fromkeys([*ignored, "__ignore__"], IGNORE_INDEX), **{name: i for i, name in enumerate(names)}}
    if background is not None:
        ids = {**dict.fromkeys(_BACKGROUND_LABELS, ids[background]), **ids}
    of_rest = IGNORE_INDEX if background is None or unlabelled == "ignore" else ids[background]
    return LabelmeClasses(names=tuple(names), ids=ids, unlabelled=of_rest)
