"""JSON to be read by people that stays short: a list of numbers, of which there may be many, is one line."""

import json


def json_text(value: object, *, ensure_ascii: bool = True, depth: int = 0) -> str:
    """The text of a JSON-ready value; each level of objects and of other lists is indented by one blank more."""

    def block(brackets: str, lines: list[str]) -> str:
        begin, end = "\n" + " " * (depth + 1), "\n" + " " * depth
        return brackets[0] + begin + f",{begin}".join(lines) + end + brackets[1]

    def below(part: object) -> str:
        return json_text(part, ensure_ascii=ensure_ascii, depth=depth + 1)

    match value:
        case dict() if value:
            return block(
                "{}", [f"{json.dumps(key, ensure_ascii=ensure_ascii)}: {below(part)}" for key, part in value.items()]
            )
        case list() | tuple() if not all(type(part) in (int, float) for part in value):
            return block("[]", [below(part) for part in value])
    return json.dumps(value, ensure_ascii=ensure_ascii)
