"""Numbers with their nouns, for messages."""


def count_of(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`, `3 classes`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}{'es' if noun.endswith(('ss', 'x', 'ch')) else 's'}"
