"""Listing images and their masks: pairs of files in folders, and what is wrong with a listing."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_seg.data.raw.images import IMAGE_SUFFIXES, read_file
from dist_seg.data.raw.source import RawReading, SampleRef
from dist_seg.data.raw.splitting import Division
from dist_seg.errors import DataError, StorageError

_MAX_NAMED = 5
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and the file of its mask."""

    stem: str
    """The image's path below its folder, without suffix, with forward slashes."""
    image: Path | None
    """None if there is none, and that was allowed or is the fault."""
    mask: Path | None
    fault: str = ""
    """Why a list's entry cannot be used, with file and line; empty if it can."""


@dataclass(frozen=True, kw_only=True)
class PairFolders:
    """A folder of images and a folder of masks with equal stems."""

    images: Path
    masks: Path
    split: str | Division
    """The split of all pairs, or what divides them."""
    image_ending: str = ""
    """Only files whose names end with this before the suffix are images. It is no part of the stem."""
    mask_ending: str = ""
    """The same for masks."""

    @property
    def division(self) -> Division | None:
        """None if all pairs are of one split."""
        return None if isinstance(self.split, str) else self.split

    def pairs(self, *, keep_lone: bool = False) -> tuple[list[Pair], list[Path]]:
        """The pairs, sub-folders included, sorted by stem, and the files that are neither images nor masks.

        keep_lone: an image without a mask, or a mask without an image, is a pair with one file. Hidden files are
        ignored. Raises `DataError` naming the files if two have the same stem, if a folder is missing or empty, if no
        image has a mask, and, unless `keep_lone`, for every lone file.
        """
        if self.images.resolve() == self.masks.resolve():
            raise DataError("given for the images and for the masks; they must be two folders", where=self.images)
        image_files, other_images = files_by_stem(self.images, self.image_ending, apart_from=self.masks)
        mask_files, other_masks = files_by_stem(self.masks, self.mask_ending, apart_from=self.images)
        without_mask = [path for stem, path in image_files.items() if stem not in mask_files]
        if without_mask and not (keep_lone and len(without_mask) < len(image_files)):
            hint = ""
            if len(without_mask) == len(image_files):
                up_to, example = self.mask_ending or "the suffix", next(iter(mask_files.values()))
                hint = f"; a mask must have its image's name up to {up_to}, but the masks are named like {example}"
            raise DataError(f"no mask in {self.masks} for {named(without_mask)}{hint}")
        without_image = [path for stem, path in mask_files.items() if stem not in image_files]
        if without_image and not keep_lone:
            raise DataError(f"no image in {self.images} for {named(without_image)}")
        stems = sorted(image_files.keys() | mask_files.keys())
        pairs = [Pair(stem=stem, image=image_files.get(stem), mask=mask_files.get(stem)) for stem in stems]
        return pairs, other_images + other_masks

    def refs(self, reading: RawReading, version: str = "") -> list[SampleRef]:
        """The samples. version: see `pair_ref`. Raises `DataError` as `pairs` does."""
        pairs, _ = self.pairs(keep_lone=reading.skip_bad)
        stems = [pair.stem for pair in pairs]
        splits = [self.split] * len(stems) if isinstance(self.split, str) else self.split.splits(stems)
        return [pair_ref(pair, split, version) for pair, split in zip(pairs, splits, strict=True)]


def pair_ref(pair: Pair, split: str, version: str = "", payload: bytes = b"") -> SampleRef:
    """The sample of a pair, for `read_pair`. One with a single file is a faulty sample.

    version: what else the sample's content depends on; the same on every machine.
    """
    image, mask = pair.image, pair.mask
    files = list(dict.fromkeys(path for path in (image, mask) if path))  # one file may hold both
    num_bytes, files_version = file_version(*files)
    fault = "" if image and mask else f"{mask}: a mask that has no image" if mask else f"{image}: has no mask"
    return SampleRef(
        key=pair.stem,
        split=split,
        where=str(files[0]),
        mask_where=str(mask or ""),
        num_bytes=num_bytes,
        version=f"{files_version} {version}".rstrip(),
        portable_version=version,
        payload=payload,
        fault=fault,
    )


def fault_ref(key: str, split: str, fault: str, stray_annotations: int = 0) -> SampleRef:
    """The faulty sample for an entry that cannot be used."""
    return SampleRef(
        key=key, split=split, where=fault, num_bytes=1, version=fault, fault=fault, stray_annotations=stray_annotations
    )


def listed_refs(listed: Sequence[tuple[str, Pair]], reading: RawReading, version: str, to_fix: str) -> list[SampleRef]:
    """The samples of entries that are listed with their splits.

    version: see `pair_ref`. to_fix: what the user has to fix if an entry has a fault, which raises `DataError` unless
    bad samples are skipped.
    """
    if not reading.skip_bad:
        refuse_faults([pair.fault for _, pair in listed if pair.fault], to_fix)
    faults: Counter[tuple[str, str]] = Counter()
    refs: list[SampleRef] = []
    for split, pair in listed:
        if not pair.fault:
            refs.append(pair_ref(pair, split, version))
            continue
        # The key decides the order in shards, and by it `--append` knows an entry again. So it must not change with the
        # wording of a message, nor with the other entries.
        faults[split, pair.stem] += 1
        refs.append(fault_ref(f"{pair.stem} fault {faults[split, pair.stem]}", split, pair.fault))
    return refs


def refuse_faults(faults: Sequence[str], to_fix: str) -> None:
    """Raises `DataError` with the first fault and the number of others, if there are any."""
    if faults:
        more = len(faults) - 1
        others = f"; {more} more fault{'s' * (more > 1)} of this kind" if more else ""
        raise DataError(f"{faults[0]}{others}\nfix {to_fix}, or leave out what is wrong (--skip-bad)")


def read_pair(sample: SampleRef) -> tuple[bytes, bytes]:
    """The bytes of a sample's image file and mask file."""
    return read_file(Path(sample.where)), read_file(Path(sample.mask_where))


def file_version(*paths: Path) -> tuple[int, str]:
    """Total size of the files in bytes, and a text that changes with their contents: their sizes and change times."""
    try:
        stats = [path.stat() for path in paths]
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}; a broken link?", where=error.filename) from error
    return sum(stat.st_size for stat in stats), " ".join(f"{stat.st_size}@{stat.st_mtime_ns}" for stat in stats)


def files_by_stem(
    folder: Path, ending: str = "", apart_from: Path | None = None, *, may_be_empty: bool = False
) -> tuple[dict[str, Path], list[Path]]:
    """The images below a folder by their stems (path without ending and suffix), and the other files.

    apart_from: a folder that is not entered. Raises `DataError` if the folder is missing or (unless `may_be_empty`)
    has no images, and for two files of one stem.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder)
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
        whose = f" whose names end with {ending}" if ending else ""
        raise DataError(f"holds no images{whose} ({', '.join(sorted(IMAGE_SUFFIXES))})", where=folder)
    return found, others


def files_below(folder: Path, apart_from: Path | None = None) -> Iterable[Path]:
    """The files of a folder and its sub-folders, sorted, without hidden files and without the folder `apart_from`."""
    yield from _files_below(folder, {apart_from.resolve()} if apart_from else set())


def _files_below(folder: Path, seen: set[Path]) -> Iterable[Path]:
    """Follows a link to a folder once. seen: the real folders that are not to be entered, or not again."""
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=folder) from error
    for path in entries:
        if path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES:
            continue
        if path.is_dir():
            yield from _files_below(path, seen)
        else:
            yield path


def leads_out(file_name: str) -> bool:
    """Whether a file name leads out of its folder: absolute, upwards, or with a drive, a scheme or a NUL."""
    parts = file_name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or ":" in parts[0] or "\0" in file_name


def named(paths: Sequence[Path]) -> str:
    """The first few paths, and how many more there are."""
    first = ", ".join(str(path) for path in paths[:_MAX_NAMED])
    return first + (f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else "")
