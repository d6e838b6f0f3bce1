"""Whether data sets may become one: the same task, classes, colours and ignore index."""

from dataclasses import fields

from dist_seg.data.manifest import Manifest
from dist_seg.errors import DataError

_MAY_DIFFER = ("format_version", "splits")


def check_same_kind(where: object, kind: Manifest, other_where: object, other_kind: Manifest) -> None:
    """Raises `DataError` that names both and the first thing in which they differ, their splits apart."""
    for field in fields(Manifest):
        one, other = getattr(kind, field.name), getattr(other_kind, field.name)
        if field.name in _MAY_DIFFER or one == other:
            continue
        what = field.name
        if isinstance(one, tuple) and isinstance(other, tuple):
            at = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
            what = f"the number of {what}" if at is None else f"{what}[{at}]"
            one, other = (len(one), len(other)) if at is None else (one[at], other[at])
        raise DataError(f"{where} and {other_where} do not go together: {what} is {one!r} and {other!r}")
