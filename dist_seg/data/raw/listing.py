"""Finding images and their masks in folders, by equal stems."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.raw.images import IMAGE_SUFFIXES, read_file
from dist_seg.data.raw.source import SampleRef
from dist_seg.errors import DataError, StorageError

_MAX_NAMED = 5
_FAULT = b"fault: "
"""What the payload of a listed sample that cannot be used begins with."""
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its mask. One of the two may be missing, where that was allowed."""

    stem: str
    """The path below the folder, without suffix, with forward slashes."""
    image: Path | None
    mask: Path | None


def pair_files(
    images: Path, masks: Path, *, keep_lone: bool = False, image_ending: str = "", mask_ending: str = ""
) -> tuple[list[Pair], list[Path]]:
    """The pairs under the two folders, sub-folders included, in the order of their stems, and the files of other kinds.

    image_ending, mask_ending: what a file's name must end with before its suffix, else it is of another kind; no part
    of the stem. Hidden files are passed over. Raises `DataError` naming the files for two with one stem, folders that
    are missing or empty, and, unless `keep_lone`, for an image without a mask or a mask without an image; where no file
    has another that belongs to it, in any case.
    """
    if images.resolve() == masks.resolve():
        raise DataError(f"{images}: given for the images and for the masks; they must be two folders")
    image_files, other_images = files_by_stem(images, image_ending, apart_from=masks)
    mask_files, other_masks = files_by_stem(masks, mask_ending, apart_from=images)
    without_mask = [path for stem, path in image_files.items() if stem not in mask_files]
    if without_mask and not (keep_lone and len(without_mask) < len(image_files)):
        hint = ""
        if len(without_mask) == len(image_files):
            up_to = mask_ending or "the suffix"
            hint = f"; a mask must have its image's name up to {up_to}, here are such as {_first(mask_files)}"
        raise DataError(f"no mask in {masks} for {named(without_mask)}{hint}")
    without_image = [path for stem, path in mask_files.items() if stem not in image_files]
    if without_image and not keep_lone:
        raise DataError(f"no image in {images} for {named(without_image)}")
    stems = sorted(image_files.keys() | mask_files.keys())
    pairs = [Pair(stem=stem, image=image_files.get(stem), mask=mask_files.get(stem)) for stem in stems]
    return pairs, other_images + other_masks


def pair_ref(pair: Pair, split: str, version: str = "") -> SampleRef:
    """The sample, as `read_pair` takes it; `version`: what else its content depends on, alike on every machine."""
    files = [path for path in (pair.image, pair.mask) if path]
    num_bytes, files_version = file_version(*files)
    return SampleRef(
        key=pair.stem,
        split=split,
        where=str(files[0]),
        mask_where=str(pair.mask or ""),
        num_bytes=num_bytes,
        version=f"{files_version} {version}".rstrip(),
        portable_version=version,
    )


def refuse_faults(faults: Sequence[str], to_mend: str) -> None:
    """Raises `DataError` with the first of what is wrong in a listing and the number of the others, if anything is."""
    if faults:
        more = f"; {len(faults) - 1} more faults of this kind" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}\nmend {to_mend}, or let what is wrong be left out (--skip-bad)")


def fault_ref(key: str, split: str, fault: str) -> SampleRef:
    """Something listed that cannot be used: a bad sample, as `check_no_fault` raises `DataError` with these words."""
    payload = _FAULT + fault.encode(errors="surrogatepass")  # it may name a file whose name is not UTF-8
    return SampleRef(key=key, split=split, where=fault, num_bytes=1, version=fault, payload=payload)


def check_no_fault(sample: SampleRef) -> None:
    """Raises `DataError` for a sample made by `fault_ref`."""
    if sample.payload.startswith(_FAULT):
        raise DataError(sample.payload.removeprefix(_FAULT).decode(errors="surrogatepass"))


def read_pair(sample: SampleRef) -> tuple[bytes, bytes]:
    """Image and mask file. Raises `DataError` where there is only one of them, so that it counts as a bad sample."""
    check_no_fault(sample)
    if not sample.mask_where:
        raise DataError(f"{sample.where}: has no mask")
    if sample.where == sample.mask_where:
        raise DataError(f"{sample.where}: a mask that has no image")
    return read_file(Path(sample.where)), read_file(Path(sample.mask_where))


def file_version(*paths: Path) -> tuple[int, str]:
    """Bytes of the files together, and a text that changes when their contents do: sizes and times of change."""
    try:
        stats = [path.stat() for path in paths]
    except OSError as error:
        raise StorageError(f"{error.filename}: cannot be read: {error.strerror}; a broken link?") from error
    return sum(stat.st_size for stat in stats), " ".join(f"{stat.st_size}@{stat.st_mtime_ns}" for stat in stats)


def files_by_stem(
    folder: Path, ending: str = "", apart_from: Path | None = None, *, may_be_empty: bool = False
) -> tuple[dict[str, Path], list[Path]]:
    """The images under a folder by their paths below it, without ending and suffix, and the files of other kinds.

    apart_from: a folder that is not entered. Raises `DataError` for a folder that is missing or (unless it
    `may_be_empty`) without images, and for two files of one stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    others: list[Path] = []
    for path in files_below(folder, apart_from):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.stem.endswith(ending):
            others.append(path)
            continue
        stem = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix()).removesuffix(ending)
        if stem in found:
            raise DataError(f"{found[stem]} and {path} have the same name up to the suffix; rename or remove one")
        found[stem] = path
    if not (found or may_be_empty):
        named = f" whose names end with {ending}" if ending else ""
        raise DataError(f"{folder}: holds no images{named} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found, others


def files_below(folder: Path, apart_from: Path | None = None) -> Iterable[Path]:
    """The files of a folder and its sub-folders, in order, without hidden ones and `apart_from`."""
    yield from _files_below(folder, {apart_from.resolve()} if apart_from else set())


def _files_below(folder: Path, seen: set[Path]) -> Iterable[Path]:
    """The files, links to folders followed once: `seen` holds the real folders that are not to be entered (again)."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(f"{folder}: cannot be read: {error.strerror}") from error
    for path in entries:
        if path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES:
            continue
        if path.is_dir():
            yield from _files_below(path, seen)
        else:
            yield path


def leads_out(file_name: str) -> bool:
    """Whether a name does not stay below its folder: absolute, upwards, with a drive, a scheme or a NUL."""
    parts = file_name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or ":" in parts[0] or "\0" in file_name


def named(paths: Sequence[Path]) -> str:
    """The first few, and how many more."""
    first = ", ".join(str(path) for path in paths[:_MAX_NAMED])
    return first + (f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else "")


def _first(files: dict[str, Path]) -> Path:
    return next(iter(files.values()))
