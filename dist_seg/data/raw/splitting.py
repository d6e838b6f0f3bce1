"""Dividing a data set into training and validation by the hash of each sample's group: the same on every run."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dist_seg.errors import DataError, UserError

DEFAULT_VAL = 0.1
DIVISION = "division"
"""Key in the recorded options of packing: `Division.record`."""
# A year may follow, as in COCO's train2017.
_SPLIT_FOLDER = re.compile(r"(?:(train|training)|(val|valid|validation)|(test|testing))(?:\d{4})?", re.IGNORECASE)
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Dividing:
    """The user's options for dividing samples into splits."""

    val: float | None = None
    """Share of the images for the split `val`, 0 for none. None takes 0.1 if the folder is not divided already and
    `split` is `train`."""
    group_by: str | None = None
    """Regular expression for an image's path below the folder of images, without suffix. Images with the same match
    stay together. If folders already divide the images, it applies below them and checks their division."""
    split: str | None = None
    """Name of the split for all other images; None is `train`."""
    adds: bool = False
    """The samples are added to a data set that is divided already, so all of them may fall on one side."""
    cutoff: float | None = None
    """`Division.cutoff` of that data set, if it is known."""

    def as_before(self, record: object, where: object) -> "Dividing":
        """The options for samples that are added to the data set `where`, from the record of its division.

        record: None if there is none. Raises `UserError` for a given option that differs from the recorded one.
        """
        match record:
            case {
                "--val": float(val),
                "--group-by": None | str() as group_by,
                "--split": str(split),
                "cutoff": float(cutoff),
            }:
                before = Dividing(val=val, group_by=group_by, split=split, adds=True, cutoff=cutoff)
            case _:
                return replace(self, adds=True)
        for name in ("val", "group_by", "split"):
            given, recorded = getattr(self, name), getattr(before, name)
            if given not in (None, recorded):
                option = f"--{name.replace('_', '-')}"
                was = f"with {option} {recorded}" if recorded is not None else f"without {option}"
                raise UserError(f"{where}: was divided {was}; append with the same, or leave {option} out")
        return before


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a data set is divided. Made by `divide`."""

    by_folders: bool
    """Each stem begins with the folder of its split, which decides."""
    val: float
    group_by: str | None
    split: str
    cutoff: float
    """Groups whose hash is below this are for validation."""

    @property
    def record(self) -> dict[str, object] | None:
        """What divides samples that are added later; None if folders divide them."""
        if self.by_folders:
            return None
        return {"--val": float(self.val), "--group-by": self.group_by, "--split": self.split, "cutoff": self.cutoff}

    def splits(self, stems: Sequence[str]) -> list[str]:
        """The split of each stem."""
        if self.by_folders:
            splits = [_split_of_folder(stem) or self.split for stem in stems]
            if self.group_by is not None:
                below = [stem.split("/", 1)[1] for stem in stems]
                check_divided_groups(group_names(below, self.group_by), splits)
            return splits
        if not self.val:
            return [self.split] * len(stems)
        groups = group_names(stems, self.group_by)
        return ["val" if _hash(group) < self.cutoff else self.split for group in groups]


def divide(images: Path, stems: Sequence[str], dividing: Dividing = Dividing()) -> Division:
    """Divide the images below a folder. stems: their paths below it, without suffixes.

    They are divided already if all lie in sub-folders named after at least two splits (train, training, val, valid,
    validation, test, testing, with or without a year).

    Raises `UserError` for options that would have no effect. Raises `DataError` if only some images lie in such
    sub-folders, unless `val` or `split` says how to divide all, and what `Division.splits` raises.
    """
    folders = _split_folders(stems)
    outside = [stem for stem in stems if _split_of_folder(stem) is None] if folders else []
    if outside and dividing.val is None and dividing.split is None:
        more = f" and {len(outside) - 1} more lie" if len(outside) > 1 else " lies"
        raise DataError(
            f"{images}: {' and '.join(folders)} hold the splits, but {outside[0]}{more} outside them; move it "
            "into one of them or away, or give with --val the share of all images, in any folder, for validation"
        )
    if outside:
        folders = []
    share = _share_for_validation(images, folders, dividing)
    if dividing.cutoff is not None:
        cutoff = dividing.cutoff
    elif share and not dividing.adds:
        cutoff = validation_cutoff(group_names(stems, dividing.group_by), share)
    else:
        cutoff = share
    division = Division(
        by_folders=bool(folders),
        val=share,
        group_by=dividing.group_by,
        split=dividing.split or "train",
        cutoff=cutoff,
    )
    division.splits(stems)
    return division


def group_names(stems: Sequence[str], group_by: str | None, setting: str = "group_by") -> list[str]:
    """The group of each stem: what the regular expression's parentheses caught, or all that it matched.

    Without an expression every stem is its own group. Raises `UserError` for a bad expression and `DataError` for a
    stem that it does not match.
    """
    if group_by is None:
        return list(stems)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"{setting} {group_by!r} is no regular expression: {error}") from error
    groups = []
    for stem in stems:
        match = pattern.search(stem)
        if match is None:
            raise DataError(f"{setting} {group_by!r} does not match {stem!r}; every file must belong to a group")
        groups.append("/".join(part or "" for part in match.groups()) if pattern.groups else match.group())
    return groups


def validation_cutoff(groups: Sequence[str], fraction: float) -> float:
    """The hash, from 0 to 1, below which groups are for validation: `fraction`, unless one side would be empty.

    groups: the group of every sample. The side of a group depends only on its own name, so it stays there when other
    groups come or go. If one side would be empty, the group nearest to it moves there. Raises `DataError` for a
    fraction outside (0, 1) or for fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share for validation is {fraction}, must lie between 0 and 1")
    hashes = sorted(_hash(group) for group in set(groups))
    if len(hashes) < 2:
        raise DataError(
            f"all {len(groups)} samples are in one group ({groups[0] if groups else ''!r}), so there is nothing to "
            "validate on; group by something else"
        )
    if hashes[0] >= fraction:
        return math.nextafter(hashes[0], math.inf)
    return min(fraction, hashes[-1])


def check_divided_groups(groups: Sequence[str], splits: Sequence[str]) -> None:
    """Raises `DataError` for a group with samples in two splits. groups, splits: those of every sample."""
    split_of: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if (other := split_of.setdefault(group, split)) != split:
            raise DataError(
                f"group {group!r} has samples in {other} and in {split}; move them to one side, or leave group_by out "
                "if you want that"
            )


def _hash(group: str) -> float:
    """The hash of a group's name, from 0 to 1."""
    digest = hashlib.blake2b(group.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _share_for_validation(images: Path, divided: Sequence[str], dividing: Dividing) -> float:
    """The share for validation that the options ask for. Raises `UserError` for options that contradict each other."""
    val, group_by, split = dividing.val, dividing.group_by, dividing.split
    if divided and (val or split is not None):
        given = "a share for validation (--val)" if val else "a name for the split (--split)"
        raise UserError(
            f"{images}: is already divided into {', '.join(divided)}, so {given} has no effect; leave it out, or give "
            "one of the folders"
        )
    if divided:
        return 0.0
    if val is None:
        val = DEFAULT_VAL if split in (None, "train") else 0.0
    if val and split == "val":
        raise UserError(
            f"{images}: --split val and --val {val} would both make a split called val; leave one of them out, or give "
            "--split another name"
        )
    if group_by is not None and not val:
        raise UserError(
            f"{images}: --group-by {group_by!r} has no effect without a share for validation; give --val, or leave it "
            "out"
        )
    return val


def _split_folders(stems: Sequence[str]) -> list[str]:
    """The sub-folders that are named after splits; none if they name only one split."""
    folders = {stem.split("/")[0]: split for stem in stems if (split := _split_of_folder(stem))}
    return sorted(folders) if len(set(folders.values())) > 1 else []


def _split_of_folder(stem: str) -> str | None:
    """The split that the first folder of a path is named after; None if it is named after none."""
    folder, _, below = stem.partition("/")
    match = _SPLIT_FOLDER.fullmatch(folder)
    return _SPLITS[match.lastindex - 1] if below and match and match.lastindex else None
