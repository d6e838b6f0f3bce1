"""Dividing a data set into training and validation: by group, without chance, so that the same files divide alike."""

import hashlib
import re
from collections import Counter
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
    """The groups for validation: about `fraction` of the samples, at least one group and never all.

    `groups` holds the group of every sample. Groups are taken in the order of a hash of their names, as long as they
    fit. Raises `DataError` for a fraction outside (0, 1) or fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share for validation is {fraction}, must lie between 0 and 1")
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise DataError(
            f"all {len(groups)} samples are of one group ({next(iter(sizes), '')!r}): there is nothing to validate on; "
            "group by something else"
        )
    room = min(len(groups) - 1, max(1, round(fraction * len(groups))))
    chosen = set()
    for group in sorted(sizes, key=_hash):
        if sizes[group] <= room:
            room -= sizes[group]
            chosen.add(group)
    return frozenset(chosen or {min(sizes, key=lambda group: (sizes[group], _hash(group)))})


def _hash(group: str) -> bytes:
    return hashlib.blake2b(group.encode(errors="surrogatepass"), digest_size=16).digest()
