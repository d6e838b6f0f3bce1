"""What the values in masks mean. Packing records it, so that masks added later can be checked against it."""

from collections.abc import Mapping

from dist_seg.errors import DataError

MEANING = "meaning"
"""Key in the recorded options of packing: the `meaning` of the source, if it has one."""

Meaning = Mapping[str, Mapping[str, str | None]]
"""Class name by kind of value (`number`, `colour`) and value in the mask; None for a value that is ignored."""


def recorded_meaning(options: Mapping[str, object] | None) -> Meaning | None:
    """The meaning in the recorded options of a packed data set; None if they do not have it."""
    match (options or {}).get(MEANING):
        case dict(kinds) if all(isinstance(kind, dict) for kind in kinds.values()):
            return kinds
    return None


def check_same_meaning(where: object, meaning: Meaning | None, other_where: object, other: Meaning | None) -> None:
    """Raises `DataError` for a value that means one class in one data set and another class in the other.

    A value that only one of them knows is no conflict, because the other refuses it. Nor is one that is not recorded.
    """
    for kind, of_other in (other or {}).items():
        known = (meaning or {}).get(kind, {})
        for value, name in of_other.items():
            if value in known and known[value] != name:
                raise DataError(
                    f"{where} was packed with {kind} {value} {_as(known[value])}, {other_where} has it {_as(name)}; "
                    "give both the same classes, numbers and colours (for example with a number in every line of "
                    "classes.txt), or pack everything again (--overwrite)"
                )


def _as(name: str | None) -> str:
    return "ignored" if name is None else f"as {name!r}"
