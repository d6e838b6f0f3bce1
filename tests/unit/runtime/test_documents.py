"""JSON documents as typed values: an error names the file, the field and what stands there."""

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
        ("[]", "f.json: the document: expected object, got array"),
        ('{"parts', "f.json: not JSON: Input data was truncated"),
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
