"""Walking a tar as its bytes pass by, held against Python's own reader."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_seg.data.shards.tar_headers import TarWalk, cut_name, member_fault

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150).filter(
    lambda name: name.strip(".") != ""
)


def _walked(data: bytes, piece: int) -> tuple[list[tuple[str, int, int, bytes]], TarWalk]:
    found: list[tuple[str, int, int, bytes]] = []

    def on_member(member: tarfile.TarInfo, begin: int) -> None:
        found.append((member.name, begin, member.size, member.type))

    walk = TarWalk(on_member, extended=True)
    for offset in range(0, len(data), piece):
        walk.feed(offset, data[offset : offset + piece])
    return found, walk


@settings(max_examples=150)
@given(
    st.lists(st.tuples(_NAMES, st.integers(0, 1300), st.booleans()), min_size=1, max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([1, 7, 511, 512, 513, 4096, 10**6]),
)
def test_members_are_those_that_tarfile_finds(
    members: list[tuple[str, int, bool]], tar_format: int, piece: int
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format, pax_headers={"comment": "ö"}) as tar:
        for name, size, is_folder in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if is_folder else tarfile.REGTYPE
            info.size, info.mtime = 0 if is_folder else size, 0.5
            tar.addfile(info, io.BytesIO(b"\1" * info.size))
    data = file.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size, m.type) for m in tar]
    found, walk = _walked(data, piece)
    assert (found, walk.ended, walk.problem) == (expected, True, None)
    assert not any(data[walk.position :])


def _pax(kind: bytes, records: dict[str, str], type_behind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("x")
    body = tarfile.TarInfo._create_pax_generic_header(records, kind, "utf-8")  # type: ignore[attr-defined]
    info.type = type_behind
    return body + info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 1024


@pytest.mark.parametrize("records", [{"path": "../x"}, {"size": "5"}, {"GNU.sparse.major": "1"}])
def test_a_global_header_must_not_rename_what_follows(records: dict[str, str]) -> None:
    _, walk = _walked(_pax(tarfile.XGLTYPE, records), 512)
    assert walk.problem is not None
    assert "global header" in walk.problem


def test_a_name_in_an_extended_header_counts() -> None:
    found, walk = _walked(_pax(tarfile.XHDTYPE, {"path": "../../etc/passwd"}), 512)
    assert [name for name, *_ in found] == ["../../etc/passwd"]
    assert walk.problem is None


@pytest.mark.parametrize(
    "data",
    [
        _pax(tarfile.XHDTYPE, {"comment": "x" * (1 << 20)}),
        _pax(tarfile.XHDTYPE, {"path": "y"})[:-1536] + b"\0" * 1024,
        _pax(tarfile.XHDTYPE, {"size": "-4"}),
        _pax(tarfile.XHDTYPE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        b"".join(_pax(tarfile.XHDTYPE, {"path": "y"})[:1024] for _ in range(1500)),
        tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)[:-1] + b"\1",
    ],
    ids=["too long", "nothing behind", "negative", "holes", "endless", "damaged"],
)
def test_headers_made_to_harm_end_the_walk(data: bytes) -> None:
    _, walk = _walked(data, 512)
    assert walk.ended
    assert walk.problem is not None


def test_the_webdataset_library_cuts_names_alike() -> None:
    tariterators = pytest.importorskip("webdataset.tariterators")
    for name in ("a.jpg", "a.seg.png", "b/c.jpg", "v1.0/c.seg.png", "a", ".hidden", "a/.x.y", "a.b/c"):
        prefix, suffix = tariterators.base_plus_ext(name)
        cut = cut_name(name)
        assert (cut is None) == (prefix is None)
        if cut is not None:
            assert (cut[1], cut[0].count("__")) == (suffix, prefix.count("/"))


@pytest.mark.parametrize(
    ("name", "kind", "is_good"),
    [
        ("a.jpg", tarfile.REGTYPE, True),
        ("a..jpg", tarfile.AREGTYPE, True),
        ("a", tarfile.DIRTYPE, True),
        ("../a", tarfile.DIRTYPE, False),
        ("\\a", tarfile.REGTYPE, False),
        ("a\\..\\b", tarfile.REGTYPE, False),
        ("a", tarfile.CHRTYPE, False),
        ("a", tarfile.GNUTYPE_SPARSE, False),
        ("a", tarfile.CONTTYPE, False),
    ],
)
def test_only_plain_files_and_folders_inside_are_harmless(name: str, kind: bytes, is_good: bool) -> None:
    info = tarfile.TarInfo(name)
    info.type = kind
    assert (member_fault(info, folders=True) is None) == is_good
