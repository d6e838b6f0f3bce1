"""Dividing a data set into training and validation: by group, without chance, so that the same files divide alike."""

import hashlib
import re
from collections.abc import Sequence

from dist_seg.errors import DataError, UserError


def group_names(stems: Sequence[str], group_by: str | None) -> list[str]:
    """The group of each stem: what the regular expression's parentheses caught, or all that it matched.

    Without an expression every stem is its own group. Raises `UserError` for a bad expression and `DataError` for a
    stem that it does not match.
    """
    if group_by is None:
        return list(stems)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(f"group_by {group_by!r} is no regular expression: {error}") from error
    groups = []
    for stem in stems:
        match = pattern.search(stem)
        if match is None:
            raise DataError(f"group_by {group_by!r} does not match {stem!r}; every file must belong to a group")
        groups.append("/".join(part or "" for part in match.groups()) if pattern.groups else match.group())
    return groups


def validation_groups(groups: Sequence[str], fraction: float) -> frozenset[str]:
    """The groups for validation: those whose names' hash falls into the first `fraction` of its range.

    `groups` holds the group of every sample. A group's side depends on its own name alone, so that it stays where it is
    when others come or go; only where one side would be empty, the group nearest to it is moved there. Raises
    `DataError` for a fraction outside (0, 1) or fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share for validation is {fraction}, must lie between 0 and 1")
    places = {group: _place(group) for group in groups}
    if len(places) < 2:
        raise DataError(
            f"all {len(groups)} samples are of one group ({next(iter(places), '')!r}): there is nothing to validate "
            "on; group by something else"
        )
    in_order = sorted(places, key=lambda group: (places[group], group))
    count = sum(place < fraction for place in places.values())
    return frozenset(in_order[: min(max(count, 1), len(places) - 1)])


def check_divided_groups(groups: Sequence[str], splits: Sequence[str]) -> None:
    """Raises `DataError` for a group with samples in two splits. `groups` and `splits` are of every sample."""
    split_of: dict[str, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if (other := split_of.setdefault(group, split)) != split:
            raise DataError(
                f"group {group!r} has samples in {other} and in {split}; move them to one side, or leave group_by out "
                "if that is meant"
            )


def _place(group: str) -> float:
    """The hash of a group's name, from 0 to 1."""
    digest = hashlib.blake2b(group.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
