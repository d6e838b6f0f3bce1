"""Numbers with their nouns, for messages."""

_HISSING = ("ss", "x", "sh", "tch")
"""Endings that take `es`. `ch` alone is not among them: an epoch ends in a k."""


def count_of(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`, `3 classes`, `4 micro-batches`, `5 epochs`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}{'es' if noun.endswith(_HISSING) else 's'}"
