"""What a data set's masks mean, as it is recorded when they are packed, so that what is appended means the same."""

from collections.abc import Mapping

from dist_seg.errors import DataError

MEANING = "meaning"
"""Among the recorded options of packing: the `meaning` of the source, where it has one."""

Meaning = Mapping[str, Mapping[str, str | None]]
"""By kind (`number`, `colour`) and what stands in a mask: the class's name, None for what is ignored."""


def recorded_meaning(options: Mapping[str, object] | None) -> Meaning | None:
    """Of a data set that was packed with these options; None where it is not known."""
    match (options or {}).get(MEANING):
        case dict(kinds) if all(isinstance(kind, dict) for kind in kinds.values()):
            return kinds
    return None


def check_same_meaning(where: object, meaning: Meaning | None, other_where: object, other: Meaning | None) -> None:
    """Raises `DataError` for something that is one class here and another there.

    What only one of the two knows does not matter: the other refuses it. So it is with what is not recorded.
    """
    for kind, of_other in (other or {}).items():
        known = (meaning or {}).get(kind, {})
        for value, name in of_other.items():
            if value in known and known[value] != name:
                raise DataError(
                    f"{where} was packed with {kind} {value} {_as(known[value])}, {other_where} has it {_as(name)}; "
                    "give both the same classes, numbers and colours (with a number in every line of classes.txt, "
                    "say), or pack everything anew (--overwrite)"
                )


def _as(name: str | None) -> str:
    return "ignored" if name is None else f"as {name!r}"
