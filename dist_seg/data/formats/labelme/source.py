"""LabelMe: a JSON file with polygons, rectangles and circles for every image, in a folder and its sub-folders.

The image is embedded in the file (imageData), or is the file at imagePath, relative to the JSON file.
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
    """The class of every label."""

    names: tuple[str, ...]
    ids: Mapping[str, int]
    """Class id of every label, or the ignore index."""
    unlabelled: int
    """Class id of pixels under no shape, or the ignore index."""


@dataclass(frozen=True, kw_only=True)
class LabelmeSource:
    """Made by `open_labelme`."""

    listed: tuple[tuple[str, Pair], ...] = field(repr=False)
    """The split and pair of every JSON file, which is the pair's mask, and also its image if that is embedded. Not sent
    to worker processes, which do not need them."""
    classes: LabelmeClasses
    division: Division
    reading: RawReading = RawReading()
    """An image without a JSON file, a JSON file without an image, and a file that is not LabelMe's are bad."""
    notes: tuple[str, ...] = ()
    """Messages for the user before packing."""
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
        """What the labels mean, for the record of packing."""
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
    """The files below `root`. Each is read once.

    classes: a text file with one label in each line, in the order of the class ids; None takes `labels.txt` or
    `classes.txt` from `root` or the folder above it, or else the labels found, sorted. unlabelled: whether pixels under
    no shape are a class (`_background_`, the first unless the file lists it elsewhere) or ignored. apart_from: a folder
    below `root` that is not entered. progress: called with the number of files read and of all files. Raises
    `DataError` for a folder without files.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    paths = list(files_below(root, apart_from))
    files = [path for path in paths if path.suffix.lower() == ".json"]
    if not files:
        raise DataError(f"{root}: holds no JSON files; is this a folder of LabelMe files?")
    found = _read_all(root, files, progress)
    pairs, labels = [*found.pairs, *_lone_images(root, paths, found.images)], found.labels
    stems = [pair.stem for pair in pairs]
    division = divide(root, stems, dividing)
    classes = classes or _labels_file(root)
    if not (classes or labels):
        refuse_faults([pair.fault for pair in pairs if pair.fault], "the files")
        raise DataError(f"{root}: no file has a shape, so there are no classes")
    first, others = (sorted(part) for part in (labels & {*_BACKGROUND_LABELS}, labels - {*_BACKGROUND_LABELS}))
    listed_labels = _read_labels(classes) if classes else [*first, *others]
    table = _class_table(listed_labels, labels, unlabelled, str(classes or root))
    note = f"no {_LABELS_NAMES[0]}: classes by the labels found in shapes: {', '.join(table.names)}"
    return LabelmeSource(
        listed=tuple(zip(division.splits(stems), pairs, strict=True)),
        division=division,
        classes=table,
        reading=reading,
        notes=(f"classes from {classes}" if classes else note,),
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What all files list together."""

    pairs: Sequence[Pair]
    images: Set[Path]
    """The image paths in the files, also of embedded images."""
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
                raise DataError(f"annotates {image}, as does {other}; an image can have only one JSON file", where=file)
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
    """The path of the image. Raises `DataError` unless it is a file below `root`, or embedded."""
    path = Path(os.path.normpath(file.parent / contents.image_path))
    if contents.image_data is not None:
        return path
    is_below = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))  # every relative path is below `.`
    if "\0" in contents.image_path or not is_below:
        raise DataError(f"{file}: its imagePath {contents.image_path!r} leads out of {root}; pack a folder with both")
    if not path.is_file():
        raise DataError(f"{file}: its imagePath {path} does not exist")
    return path


def _lone_images(root: Path, paths: Iterable[Path], images: Set[Path]) -> list[Pair]:
    """The images without a JSON file."""
    known = {unicodedata.normalize("NFC", os.path.abspath(image)) for image in images}
    return [
        Pair(
            stem=path.relative_to(root).as_posix(),
            image=path,
            mask=None,
            fault=f"{path}: no JSON file annotates this image",
        )
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and unicodedata.normalize("NFC", os.path.abspath(path)) not in known
    ]


def _labels_file(root: Path) -> Path | None:
    candidates = [folder / name for folder in (root, root.absolute().parent) for name in _LABELS_NAMES]
    return next((path for path in candidates if path.is_file()), None)


def _read_labels(path: Path) -> list[str]:
    """The labels in a text file, one in each line. Raises `DataError` for a repeated label."""
    labels = [text for _, text in text_lines(path)]
    check_classes(labels, str(path))
    return labels


def _class_table(labels: Sequence[str], found: Set[str], unlabelled: Unlabelled, where: str) -> LabelmeClasses:
    """The classes of these labels: without ignored ones, and with the background if `unlabelled` asks for it.

    found: the labels in shapes. If such a label is ignored by its name, `labels` need not have it.
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
    unlabelled_id = IGNORE_INDEX if background is None or unlabelled == "ignore" else ids[background]
    return LabelmeClasses(names=tuple(names), ids=ids, unlabelled=unlabelled_id)
