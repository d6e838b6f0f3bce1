"""Scanning an annotation file: the entries at the offsets found are those that a JSON parser reads."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.data.formats.coco.annotation_file import AnnotationFile, scan_annotations
from dist_seg.errors import DataError, StorageError

_SIMPLE: dict[str, list[dict[str, object]]] = {
    "images": [{"id": 5, "file_name": "ä.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": 1, "image_id": 2}, {"id": 2, "image_id": 5, "note": "日"}, {"id": 3, "image_id": 2}],
    "categories": [{"id": 1, "name": "größe"}],
}


def _read(file: Path, scanned: AnnotationFile) -> dict[str, list[object]]:
    """The annotations of each image, read at the offsets that the scan found."""
    data = file.read_bytes()
    return {
        image.file_name: [json.loads(data[begin:end]) for begin, end in image.annotations] for image in scanned.images()
    }


def _scanned(file: Path, text: str | bytes) -> AnnotationFile:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return scan_annotations(file)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_each_image_has_its_annotations_in_the_order_of_the_file(
    tmp_path: Path, indent: int | None, ascii_only: bool
) -> None:
    file = tmp_path / "a.json"
    scanned = _scanned(file, json.dumps(_SIMPLE, indent=indent, ensure_ascii=ascii_only))
    first, second, third = _SIMPLE["annotations"]
    assert _read(file, scanned) == {"ä.jpg": [second], "b.jpg": [first, third]}
    assert scanned.categories == {1: "größe"}


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    scanned = _scanned(file, b"\xef\xbb\xbf" + json.dumps(_SIMPLE).encode())
    assert [len(entries) for entries in _read(file, scanned).values()] == [1, 2]


def test_lists_in_any_order_and_other_keys_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    document = {"info": {"images": [1]}, **{name: _SIMPLE[name] for name in sorted(_SIMPLE)}, "licenses": [[], "}"]}
    assert [len(entries) for entries in _read(file, _scanned(file, json.dumps(document))).values()] == [1, 2]


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=5),
    owners=st.lists(st.integers(0, 9), max_size=12),
    notes=st.lists(_values, min_size=12, max_size=12),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_every_annotation_is_found_as_a_parser_finds_it(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[int],
    owners: list[int],
    notes: list[object],
    ascii_only: bool,
    indent: int | None,
) -> None:
    file = tmp_path_factory.getbasetemp() / "property.json"
    annotations = [
        {"note": notes[i], "image_id": images[owner % len(images)], "id": i} for i, owner in enumerate(owners) if images
    ]
    document = {
        "annotations": annotations,
        "images": [{"id": number, "file_name": f"{number}.png"} for number in images],
        "categories": [],
    }
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    scanned = _scanned(file, text)
    expected = {f"{n}.png": [a for a in annotations if a["image_id"] == n] for n in images}
    assert _read(file, scanned) == expected
    assert (scanned.faults, scanned.repeated) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        *(" ", "[]", "null", "{", "{x}", "{1: 2}", '{"images": []} x', '{"images": [] "x": 1}'),
        *('{"images": [', '{"images": [{}}', '{"images": [{"id": 1, "file_name": "a.jpg"}, ]}', "\xff"),
    ],
)
def test_what_is_not_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: not JSON"):
        _scanned(tmp_path / "a.json", text)


def test_brackets_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: not JSON"):
        _scanned(tmp_path / "a.json", '{"info": ' + "[" * 100_000)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: the file is empty"):
        _scanned(tmp_path / "a.json", "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a\.json: cannot be read: No such file"):
        scan_annotations(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
@pytest.mark.parametrize("instead", ["missing", "no list"])
def test_a_missing_list_is_named(tmp_path: Path, name: str, instead: str) -> None:
    document: dict[str, object] = {**_SIMPLE, name: {"0": {}}}
    if instead == "missing":
        del document[name]
    with pytest.raises(DataError, match=rf"a\.json: has no list of {name}"):
        _scanned(tmp_path / "a.json", json.dumps(document))
