"""JSON documents as typed values: an error names the file, the field and what stands there."""

import json
import re
from dataclasses import dataclass

import pytest

from dist_seg.errors import CheckpointError, DataError
from dist_seg.runtime.documents import convert, decode


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    parts: dict[str, Part]
    version: int


def test_a_document_becomes_the_dataclass_and_unknown_fields_are_ignored() -> None:
    text = '{"parts": {"a": {"name": "x", "counts": [1, 2], "new": 3}}, "version": 1}'
    assert decode(text, Document, "f.json") == Document(parts={"a": Part(name="x", counts=(1, 2))}, version=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"parts": {}}', "f.json: version is missing"),
        ('{"parts": {}, "version": true}', "f.json: version is True: expected int, got bool"),
        ('{"parts": {"a": 3}, "version": 1}', "f.json: parts.a is 3: expected object, got int"),
        ('{"parts": {"a": {"name": "a"}, "b": {}}, "version": 1}', "f.json: parts.b.name is missing"),
        (
            '{"parts": {"a": {"name": "a"}, "b": {"name": "b", "counts": [1, "q"]}}, "version": 1}',
            "f.json: parts.b.counts[1] is 'q': expected int, got str",
        ),
        ('{"parts": {"a.json": 3}, "version": 1}', "f.json: parts['a.json'] is 3: expected object, got int"),
        ("[]", "f.json: the document: expected object, got array"),
        ('{"parts', "f.json: not JSON: Unterminated string starting at: line 1 column 2"),
        ('{"version": ' + "[" * 100_000, "f.json: not JSON: maximum recursion depth exceeded"),
    ],
)
def test_an_error_names_the_file_and_the_field(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        decode(text, Document, "f.json")


def test_the_kind_of_error_is_the_callers() -> None:
    with pytest.raises(CheckpointError, match="version is missing"):
        convert({"parts": {}}, Document, "meta.json", error=CheckpointError)


def test_a_document_that_is_refused_is_not_changed() -> None:
    document = {"parts": {"a": {"name": "a"}, "b": {"name": 1}}, "version": 1}
    with pytest.raises(DataError, match=r"parts\.b\.name"):
        convert(document, Document, "f.json")
    assert document == {"parts": {"a": {"name": "a"}, "b": {"name": 1}}, "version": 1}


def test_what_python_writes_for_no_number_and_infinity_is_read() -> None:
    text = json.dumps({"1": float("inf"), "2": float("nan")})
    found = decode(text, dict[int, float], "f.json")
    assert found[1] == float("inf") and found[2] != found[2]


def test_numbers_are_keys_in_a_parsed_document_too() -> None:
    assert convert({"1": 0.5}, dict[int, float], "f.json") == {1: 0.5}
    with pytest.raises(DataError, match=r"^f\.json: the key one: expected int, got str$"):
        convert({"one": 0.5}, dict[int, float], "f.json")


def test_every_key_on_the_way_is_named() -> None:
    with pytest.raises(DataError, match=r"^f\.json: b\.y\[1\] is 'q': expected int, got str$"):
        convert({"a": {"x": [1]}, "b": {"x": [1], "y": [2, "q"]}}, dict[str, dict[str, list[int]]], "f.json")
    with pytest.raises(DataError, match=r"^f\.json: the key b\.two: expected int, got str$"):
        convert({"a": {"1": 1}, "b": {"2": 1, "two": 1}}, dict[str, dict[int, int]], "f.json")
