"""The safetensors format as it is written here, against the library that defines it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from dist_seg.checkpoint.state import SnapshotBuffers
from dist_seg.checkpoint.tensors import PIECE_BYTES, decoded, encoded, read_header
from dist_seg.errors import CheckpointError
from dist_seg.storage.object_store import open_storage

KINDS = {
    "matrix": torch.arange(12.0).view(3, 4),
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "double": torch.randn(5, dtype=torch.float64),
    "half": torch.randn(3).half(),
    "bfloat": torch.randn(3).bfloat16(),
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "turned": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "part of another": torch.randn(8)[2:5],
    "large": torch.randn(PIECE_BYTES // 4 + 3),
}


def joined(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return b"".join(encoded(tensors))


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    wrong = [
        name
        for name, tensor in expected.items()
        if found[name].dtype != tensor.dtype or not torch.equal(found[name], tensor)
    ]
    assert wrong == []


def test_the_library_reads_what_is_written() -> None:
    assert_equal(load(joined(KINDS)), KINDS)


def test_what_the_library_writes_is_read() -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in KINDS.items()}
    assert_equal(decoded(bytearray(save(contiguous)), "a file"), KINDS)


def test_nothing_at_all_is_a_file_too() -> None:
    assert load(joined({})) == {}
    assert decoded(bytearray(joined({})), "a file") == {}


def test_metadata_stands_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"".join(encoded(KINDS, {"config": "a: ü\n"})))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"config": "a: ü\n"}
    infos, metadata = read_header(open_storage(tmp_path), "a.safetensors")
    assert metadata == {"config": "a: ü\n"}
    assert {name: (info.dtype, info.shape) for name, info in infos.items() if name in ("scalar", "turned")} == {
        "scalar": ("I64", ()),
        "turned": ("F32", (4, 3, 2, 2)),
    }


def test_a_snapshot_is_written_in_pieces_of_its_block_and_not_tensor_by_tensor() -> None:
    tensors = {f"{number}": torch.full((PIECE_BYTES // 64,), float(number)) for number in range(40)}
    taken = SnapshotBuffers().snapshot("model", tensors.items())
    pieces = list(encoded(taken))
    assert [len(piece) for piece in pieces[1:]] == [PIECE_BYTES] * 2 + [PIECE_BYTES // 2]
    assert_equal(load(b"".join(pieces)), tensors)


def test_a_snapshot_is_taken_into_the_memory_of_the_one_before() -> None:
    buffers, tensors = SnapshotBuffers(), {**KINDS}
    first = buffers.snapshot("model", tensors.items())
    addresses = {name: tensor.data_ptr() for name, tensor in first.items()}
    tensors["matrix"] = tensors["matrix"] + 1
    second = buffers.snapshot("model", tensors.items())
    assert_equal(second, tensors)
    assert {name: tensor.data_ptr() for name, tensor in second.items()} == addresses


def test_a_snapshot_of_other_tensors_gets_memory_of_its_own() -> None:
    buffers = SnapshotBuffers()
    assert buffers.snapshot("optimizer", []) == {}
    assert_equal(buffers.snapshot("optimizer", [("a", torch.ones(3))]), {"a": torch.ones(3)})
    assert_equal(buffers.snapshot("optimizer", [("a", torch.ones(4))]), {"a": torch.ones(4)})


def test_tensors_that_are_gone_after_their_turn_are_in_the_snapshot() -> None:
    def one_after_the_other() -> Iterator[tuple[str, torch.Tensor]]:
        whole = torch.empty(4)
        for number in range(3):  # As shards are brought together: in the same memory again and again.
            yield f"{number}", whole.fill_(number)

    taken = SnapshotBuffers().snapshot("model", one_after_the_other())
    assert_equal(taken, {f"{number}": torch.full((4,), float(number)) for number in range(3)})


def test_parts_of_a_snapshot_do_not_share_memory() -> None:
    buffers = SnapshotBuffers()
    model = buffers.snapshot("model", [("a", torch.ones(3))])
    buffers.snapshot("ema", [("a", torch.zeros(3))])
    assert_equal(model, {"a": torch.ones(3)})


def test_a_type_that_is_not_kept_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"weight: a checkpoint cannot store tensors of type torch\.complex64"):
        joined({"weight": torch.zeros(2, dtype=torch.complex64)})


def with_header(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, shape: object = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95",
        (2**63).to_bytes(8, "little") + bytes(100),
        (101).to_bytes(8, "little") + bytes(100),
        with_header(b"\xff\xfe"),
        with_header([]),
        with_header({"a": 3}),
        with_header({"a": {"dtype": "F32"}}),
        with_header({"a": tensor(0, 8, dtype="PICKLE")}),
        with_header({"a": tensor(0, 8, shape=[3])}),
        with_header({"a": tensor(0, 8, shape=[-2])}),
        with_header({"a": tensor(0, 8, shape=["2"])}),
        with_header({"a": tensor(0, 8, shape=[2**62, 2**62])}),
        with_header({"a": tensor(8, 16)}),
        with_header({"a": tensor(-8, 0)}),
        with_header({"a": tensor(0, 8), "b": tensor(0, 8)}),
        with_header({"a": tensor(0, 8)}, bytes(9)),
        with_header({"a": tensor(0, 8)}, bytes(7)),
        with_header(b"[" * 100_000),
    ],
)
def test_what_is_no_file_of_tensors_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: unreadable tensors"):
        decoded(bytearray(content), "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: unreadable tensors"):
        read_header(open_storage(tmp_path), "a.safetensors")
