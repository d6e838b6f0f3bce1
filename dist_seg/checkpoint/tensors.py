"""Writes the safetensors format straight from the tensors' memory, and reads a header without the tensors.

A file is the header's length (8 bytes, little-endian), a JSON header, and the tensors' bytes without gaps.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from dist_seg.checkpoint.state import Count
from dist_seg.errors import CheckpointError
from dist_seg.runtime.documents import convert, decode
from dist_seg.storage.object_store import Storage

PIECE_BYTES = 16 * 2**20
"""Size of the pieces that are read and checksummed: large, so that the interpreter's lock is rarely taken."""
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_METADATA = "__metadata__"
"""The only key of a header that is not a tensor's name."""
_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A tensor's entry in a header."""

    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]
    """Offsets of the begin and end of its bytes from the end of the header."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Type, shape and position of one tensor in a file."""

    dtype: str
    """Name in the format: F32, BF16, I64."""
    shape: tuple[int, ...]
    begin: int
    """Offset of its bytes from the end of the header."""
    num_bytes: int


def _in_file_order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names in the order of a file: wide elements first, so that each tensor is aligned to its element size."""
    return sorted(tensors, key=lambda name: -tensors[name].element_size())


def encoded(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a file with these CPU tensors, in pieces. Only small tensors that are apart in memory are copied.

    metadata: texts for the header. Raises CheckpointError for a dtype that the format does not support.
    """
    names = _in_file_order(tensors)
    yield (_header({name: tensors[name] for name in names}, metadata))
    yield from _gathered(_bytes_of(tensors[name]) for name in names)


def read_header(storage: Storage, name: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors that a file's header lists, checked against the file's length, and its metadata.

    Raises CheckpointError naming the file if the header is not valid.
    """
    where, size = f"{storage.url}/{name}", storage.size(name)
    length = _header_length(storage.read_range(name, 0, min(8, size)), size, where)
    return _parsed(storage.read_range(name, 8, length), size, where)


def decoded(content: bytearray, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a file's content. They use it as their memory.

    where: the file, for errors. Raises CheckpointError if the content is not valid.
    """
    length = _header_length(content[:8], len(content), where)
    infos, _ = _parsed(bytes(content[8 : 8 + length]), len(content), where)
    return {
        name: torch.frombuffer(
            content, dtype=_DTYPES[info.dtype], count=math.prod(info.shape), offset=8 + length + info.begin
        ).view(info.shape)
        if info.num_bytes
        else torch.empty(info.shape, dtype=_DTYPES[info.dtype])
        for name, info in infos.items()
    }


def _header_length(first: bytes | bytearray, size: int, where: str) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{where}: unreadable tensors: its header would be {length} bytes long, the file has {size}; this is not a "
            "safetensors file"
        )
    return length


def _parsed(header: bytes, size: int, where: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Parses a header into tensors and metadata, and checks that the tensors fill the file without gap or overlap."""
    problem = f"{where}: unreadable tensors: not the header of a safetensors file"
    content = decode(header, dict[str, object], problem, error=CheckpointError)
    metadata = convert(content.pop(_METADATA, {}), dict[str, str], problem, error=CheckpointError)
    entries = convert(content, dict[str, _Entry], problem, error=CheckpointError)
    infos = {name: _info(entry, f"{problem}: {name}") for name, entry in entries.items()}
    end = 0
    for name, info in sorted(infos.items(), key=lambda item: (item[1].begin, item[1].num_bytes)):
        if info.begin != end:
            raise CheckpointError(
                f"{name} begins at byte {info.begin}, the tensors before it end at byte {end}", where=problem
            )
        end += info.num_bytes
    if end != size - 8 - len(header):
        reason = f"its tensors take {end} bytes, the file has {size - 8 - len(header)} for them"
        raise CheckpointError(reason, where=problem)
    return infos, metadata


def _info(entry: _Entry, where: str) -> TensorInfo:
    begin, end = entry.data_offsets
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(f"is of type {entry.dtype}; a checkpoint holds {', '.join(_DTYPES)}", where=where)
    if end - begin != math.prod(entry.shape) * dtype.itemsize:
        reason = f"{end - begin} bytes for a tensor {entry.dtype} of shape {entry.shape}"
        raise CheckpointError(reason, where=where)
    return TensorInfo(dtype=entry.dtype, shape=entry.shape, begin=begin, num_bytes=end - begin)


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None) -> bytes:
    content: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise CheckpointError(f"a checkpoint cannot store tensors of type {tensor.dtype}", where=name)
        end = offset + tensor.numel() * tensor.element_size()
        content[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # So that the tensors begin at a multiple of 8.
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _gathered(tensors: Iterable[torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of the tensors, one after the other, in pieces. Neighbours in memory are joined into one run."""
    run: torch.Tensor | None = None
    apart = bytearray()
    for following in tensors:
        if run is not None and _adjoin(run, following):
            run = _joined(run, following)
            continue
        if run is not None:
            yield from _cut(run, apart)
        run = following
    if run is not None:
        yield from _cut(run, apart)
    if apart:
        yield memoryview(apart)


def _adjoin(run: torch.Tensor, following: torch.Tensor) -> bool:
    same_block = run.untyped_storage().data_ptr() == following.untyped_storage().data_ptr()
    return same_block and run.data_ptr() + run.numel() == following.data_ptr()


def _joined(run: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    return run.as_strided((run.numel() + following.numel(),), (1,))


def _cut(run: torch.Tensor, apart: bytearray) -> Iterator[bytes | memoryview]:
    """The pieces of a run. apart: collects runs that are too small for a piece of their own."""
    view = run.numpy().data
    if len(view) + len(apart) <= PIECE_BYTES // 16:
        apart += view
        return
    if apart:
        yield memoryview(bytes(apart))
        apart.clear()
    for begin in range(0, len(view), PIECE_BYTES):
        yield view[begin : begin + PIECE_BYTES]
