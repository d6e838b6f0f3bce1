"""Multi-label data in a folder of images and a folder of masks for every class: `MASKS/CLASS/STEM.png`.

The mask of a class holds one number, 1 or 255, for pixels of the class and 0 for others. Classes may overlap.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.codecs.label_layers import PRESENT
from dist_seg.data.formats.folder import CLASSES_NAME, file_beside
from dist_seg.data.raw.classes import grey_values, read_classes
from dist_seg.data.raw.images import read_file, read_mask
from dist_seg.data.raw.listing import fault_ref, file_version, files_by_stem, named
from dist_seg.data.raw.source import RawReading, RawSample, SampleRef, check_classes
from dist_seg.data.raw.splitting import Dividing, Division, divide
from dist_seg.errors import DataError, UserError
from dist_seg.masks.palette import Rgb, default_palette
from dist_seg.runtime.documents import convert
from dist_seg.runtime.plural import count_of


@dataclass(frozen=True, kw_only=True)
class LabelFolders:
    """Made by `open_label_folders`."""

    images: Path
    masks: Path
    class_names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    division: Division
    unknown: int | None
    missing_is_absent: bool
    reading: RawReading = RawReading()
    notes: tuple[str, ...] = ()
    """Messages for the user before packing."""
    task: ClassVar[Literal["multilabel"]] = "multilabel"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        files = _files(self.images, self.masks, self.class_names, may_be_empty=self.missing_is_absent)
        _check_complete(files, missing_is_absent=self.missing_is_absent, skip_bad=self.reading.skip_bad)
        splits = self.division.splits(list(files.images))
        lone_split = self.division.split if self.division.split in splits else splits[0]
        refs = [self._ref(stem, files, split) for stem, split in zip(files.images, splits, strict=True)]
        faults = (f"{path}: a mask that has no image" for path in files.lone.values())
        return refs + [fault_ref(fault, lone_split, fault) for fault in faults]

    def load(self, sample: SampleRef) -> RawSample:
        image = read_file(Path(sample.where))
        files = convert(json.loads(sample.payload), list[str | None], sample.where)
        missing = [name for name, file in zip(self.class_names, files, strict=True) if file is None]
        if missing and not self.missing_is_absent:
            raise DataError(f"{sample.where}: has no mask for {', '.join(missing)}")
        layers = [None if file is None else self._layer(file) for file in files]
        first = next((layer for layer in layers if layer is not None), None)
        if first is None:
            raise DataError(f"{sample.where}: has no mask for any class")
        for file, layer in zip(files, layers, strict=True):
            if layer is not None and layer.shape != first.shape:
                raise DataError(
                    f"{file}: {layer.shape[1]}x{layer.shape[0]} pixels, but another mask of the same image has "
                    f"{first.shape[1]}x{first.shape[0]}; they must have the same size"
                )
        return RawSample(
            image=image, mask=np.stack([np.zeros_like(first) if layer is None else layer for layer in layers])
        )

    def _layer(self, file: str) -> NDArray[np.uint8]:
        """(H, W) of 0, 1 and 255 (unknown)."""
        values = grey_values(read_mask(read_file(Path(file)), file, self.reading.max_pixels), file)
        known = np.ones_like(values, bool) if self.unknown is None else values != self.unknown
        numbers = np.unique(values[known & (values != 0)]).tolist()
        if len(numbers) > 1 or not set(numbers) <= {1, 255}:
            y, x = np.argwhere(known & (values != 0) & (values != (1 if 1 in numbers else 255)))[0]
            raise DataError(
                f"{file}: {values[y, x]} at (x={x}, y={y}); the mask of a class holds 0 and one other number, 1 or "
                "255. If this number marks unknown pixels, give it with --unknown"
            )
        return np.where(known, (values != 0) * PRESENT, IGNORE_INDEX).astype(np.uint8)

    def _ref(self, stem: str, files: "_Files", split: str) -> SampleRef:
        image, masks = files.images[stem], [by_stem.get(stem) for by_stem in files.masks.values()]
        num_bytes, version = file_version(image, *(path for path in masks if path))
        options = f"{self.class_names} {self.unknown} {[path is not None for path in masks]}"
        if None in masks and not self.missing_is_absent:
            options += " missing"
        return SampleRef(
            key=stem,
            split=split,
            where=str(image),
            mask_where=str(next((path for path in masks if path), "")),
            num_bytes=num_bytes,
            version=f"{version} {options}",
            portable_version=options,
            payload=json.dumps([path and str(path) for path in masks]).encode(),
        )


def open_label_folders(
    images: Path,
    masks: Path,
    *,
    classes: Path | None = None,
    unknown: int | None = None,
    missing_is_absent: bool = False,
    dividing: Dividing = Dividing(),
    reading: RawReading = RawReading(),
) -> LabelFolders:
    """The data set in a folder of images and a folder of masks with a sub-folder for every class.

    classes: a text file with the names of the sub-folders, in the order of the class ids; None takes `classes.txt` in
    or above the masks' folder, or else all sub-folders, sorted. unknown: the number of pixels that may or may not
    belong to the class. missing_is_absent: if an image has no mask for a class, the class is not in it;
    otherwise that is an error.
    """
    if unknown is not None and not 0 <= unknown <= 255:
        raise UserError(f"--unknown {unknown}: give the number that marks unknown pixels, from 0 to 255")
    folders = list(_class_folders(masks))
    classes = classes or file_beside(images, masks, CLASSES_NAME)
    names = tuple(_composed(name) for name in read_classes(classes).names) if classes else tuple(folders)
    notes = [f"classes from {classes}" if classes else f"classes by the names of folders: {', '.join(names)}"]
    if missing := [name for name in names if name not in folders]:
        raise DataError(
            f"{masks}: has no folder for the class {missing[0]!r} of {classes}; it has {', '.join(folders)}"
        )
    if others := [name for name in folders if name not in names]:
        notes.append(f"ignored folders, which no class is named after: {', '.join(others)}")
    check_classes(names, str(masks))
    files = _files(images, masks, names, may_be_empty=missing_is_absent)
    _check_complete(files, missing_is_absent=missing_is_absent, skip_bad=reading.skip_bad)
    if missing_is_absent:
        empty = [name for name, by_stem in files.masks.items() if not by_stem]
        notes += [f"{files.folders[name]} holds no masks, so the class is taken to be in no image" for name in empty]
        without = sum(stem not in by_stem for by_stem in files.masks.values() if by_stem for stem in files.images)
        notes += [f"{count_of(without, 'mask')} missing: the class is taken to be absent there"] if without else []
    return LabelFolders(
        images=images,
        masks=masks,
        class_names=names,
        palette=default_palette(len(names) + 1)[1:],
        division=divide(images, list(files.images), dividing),
        unknown=unknown,
        missing_is_absent=missing_is_absent,
        reading=reading,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files in the folders."""

    images: Mapping[str, Path]
    """By stem, sorted."""
    masks: Mapping[str, Mapping[str, Path]]
    """By class and stem."""
    folders: Mapping[str, Path]
    """By class."""

    @property
    def lone(self) -> dict[str, Path]:
        """Masks without an image by stem: the mask of the first class that has one."""
        found = {s: path for by_stem in reversed([*self.masks.values()]) for s, path in by_stem.items()}
        return {stem: found[stem] for stem in sorted(found.keys() - self.images.keys())}


def _files(images: Path, masks: Path, names: Sequence[str], *, may_be_empty: bool) -> _Files:
    """List the files. may_be_empty: the folder of a class may hold no masks."""
    found, _ = files_by_stem(images, "", apart_from=masks)
    all_folders = _class_folders(masks)
    folders = {name: all_folders[name] for name in names}
    by_class = {
        name: files_by_stem(folder, "", apart_from=images, may_be_empty=may_be_empty)[0]
        for name, folder in folders.items()
    }
    return _Files(images=dict(sorted(found.items())), masks=by_class, folders=folders)


def _class_folders(masks: Path) -> dict[str, Path]:
    """The folder of each class by name, sorted. Raises `DataError` if there is none."""
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder")
    folders: dict[str, Path] = {}
    for path in sorted(path for path in masks.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (other := folders.setdefault(_composed(path.name), path)) != path:
            raise DataError(f"{other} and {path} have the same name in two Unicode spellings; rename one")
    if not folders:
        raise DataError(f"{masks}: holds no folders; multi-label masks lie in one folder for each class, MASKS/CLASS/")
    return dict(sorted(folders.items()))


def _composed(name: str) -> str:
    """The name in composed Unicode. Some systems store letters and their accents separately."""
    return unicodedata.normalize("NFC", name)


def _check_complete(files: _Files, *, missing_is_absent: bool, skip_bad: bool) -> None:
    for name, by_stem in files.masks.items():
        without_image = [path for stem, path in by_stem.items() if stem not in files.images]
        if without_image and not skip_bad:
            raise DataError(f"no image for {named(without_image)}")
        without_mask = [path for stem, path in files.images.items() if stem not in by_stem]
        if without_mask and not (missing_is_absent or skip_bad):
            raise DataError(
                f"no mask in {files.folders[name]} for {named(without_mask)}; if the class is not in these images, "
                "give --missing-is-absent"
            )
