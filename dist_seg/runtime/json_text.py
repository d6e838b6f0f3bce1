"""JSON for people to read. It stays short, because a list of numbers, which may be long, is one line."""

import json


def json_text(value: object, *, ensure_ascii: bool = True, depth: int = 0) -> str:
    """The text of a JSON-ready value. Objects and lists of other values are indented by one blank per level."""

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
