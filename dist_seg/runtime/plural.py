"""Numbers with their nouns, for messages."""


def count_of(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
