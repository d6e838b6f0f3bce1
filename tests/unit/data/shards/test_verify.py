"""Verifying a packed data set: silent where all is well, and naming what is not."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_seg.data.inspection.summary import inspect
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.opened import open_data
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.data.shards.verify import verify
from dist_seg.errors import DataError
from dist_seg.storage.object_store import open_storage
from tests.unit.storage.range_server import RangeServer

_SHARD = "train-000001"


@pytest.fixture
def shards(synthetic_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(synthetic_shards, tmp_path / "data")
    return tmp_path / "data"


def _found(root: Path) -> list[str]:
    return [str(problem) for problem in verify(root)]


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_nothing_is_wrong_with_what_was_packed(shards: Path) -> None:
    assert verify(shards) == []


@pytest.mark.parametrize(("role", "suffix"), [("image", ""), ("target", "seg.png")])
def test_a_flipped_byte_is_traced_to_its_member(shards: Path, role: str, suffix: str) -> None:
    sidecar = Sidecar.parse((shards / f"{_SHARD}.samples").read_bytes())
    member = sidecar.member(2, role)
    _flip(shards / f"{_SHARD}.tar", member.offset + member.length // 2)
    assert _found(shards) == [f"{_SHARD}.tar: {sidecar.key(2)}.{suffix or member.suffix} is damaged (crc32c)"]


def test_a_flipped_byte_in_a_header_is_found(shards: Path) -> None:
    _flip(shards / f"{_SHARD}.tar", 3)
    assert "tar header" in _found(shards)[0]


def test_a_truncated_shard_says_what_is_lost(shards: Path) -> None:
    path = shards / f"{_SHARD}.tar"
    sidecar = Sidecar.parse((shards / f"{_SHARD}.samples").read_bytes())
    last = sidecar.member(sidecar.num_samples - 1, "target")
    data = path.read_bytes()
    path.write_bytes(data[: last.offset + 1])
    assert _found(shards) == [
        f"{_SHARD}.tar: is truncated: {last.offset + 1} of {len(data)} bytes; "
        f"1 of {sidecar.num_samples} samples are cut off"
    ]


def test_a_longer_shard_is_found(shards: Path) -> None:
    with (shards / f"{_SHARD}.tar").open("ab") as file:
        file.write(b"xyz")
    assert "3 more than were packed" in _found(shards)[0]


@pytest.mark.parametrize("suffix", ["tar", "idx", "samples"])
def test_a_missing_file_is_named(shards: Path, suffix: str) -> None:
    (shards / f"{_SHARD}.{suffix}").unlink()
    assert _found(shards) == [f"{_SHARD}.{suffix}: is missing"]


@pytest.mark.parametrize("suffix", ["idx", "samples"])
def test_a_changed_index_is_named(shards: Path, suffix: str) -> None:
    _flip(shards / f"{_SHARD}.{suffix}", 20)
    assert _found(shards) == [f"{_SHARD}.{suffix}: differs from what was packed (sha256)"]


def test_an_extra_shard_is_named(shards: Path) -> None:
    shutil.copy(shards / f"{_SHARD}.tar", shards / "train-000099.tar")
    assert _found(shards) == ["train-000099.tar: is not in the manifest"]


def test_what_an_interruption_left_is_named(shards: Path) -> None:
    (shards / "train-000000.tar.partial-77").write_bytes(b"")
    assert _found(shards) == ["train-000000.tar.partial-77: is left over from packing that was interrupted"]


def test_every_problem_is_listed(shards: Path) -> None:
    (shards / "val-000000.tar").unlink()
    _flip(shards / "train-000000.tar", 3)
    (shards / "new.tar").write_bytes(b"")
    assert [problem.name for problem in verify(shards)] == ["train-000000.tar", "val-000000.tar", "new.tar"]


def test_a_change_in_the_manifest_is_found(shards: Path) -> None:
    document = json.loads((shards / "manifest.json").read_text())
    document["splits"]["train"]["class_pixels"][0] += 1
    (shards / "manifest.json").write_text(json.dumps(document))
    assert _found(shards)[0].startswith("manifest.json: was changed")


def _with_hash(shards: Path, change: Callable[[dict[str, list[int]]], None]) -> None:
    """Change the training split in a manifest whose hash fits all the same, as a faulty writer would."""
    path = shards / "manifest.json"
    document = json.loads(path.read_text())
    change(document["splits"]["train"])
    path.write_text(json.dumps(document))
    path.write_text(load_manifest(open_storage(shards)).to_json())


def test_counts_that_do_not_add_up_are_found(shards: Path) -> None:
    def change(split: dict[str, list[int]]) -> None:
        split["class_pixels"][0] += 1

    _with_hash(shards, change)
    assert "split train: counts 294913 pixels, but its images have 294912" in _found(shards)[0]


def test_a_wrong_number_of_samples_is_found(shards: Path) -> None:
    document = json.loads((shards / "manifest.json").read_text())
    document["splits"]["train"]["shards"][1]["samples"] += 1
    (shards / "manifest.json").write_text(json.dumps(document))
    assert any(problem.startswith(f"{_SHARD}.samples: lists") for problem in _found(shards))


def test_a_manifest_that_cannot_be_read_is_the_problem(shards: Path) -> None:
    (shards / "manifest.json").write_text("{")
    assert _found(shards)[0].startswith("manifest.json: not JSON")


def test_a_folder_without_a_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: no such file"):
        verify(tmp_path)


def test_progress_counts_every_byte(shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(shards, progress=lambda done, total: seen.append((done, total)))
    total = sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert seen[-1] == (total, total)


def test_a_data_set_on_a_web_server_is_verified_and_inspected(shards: Path) -> None:
    pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
    handler = functools.partial(RangeServer, directory=str(shards))
    _flip(shards / f"{_SHARD}.tar", 3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert [problem.name for problem in verify(url)] == [f"{_SHARD}.tar"]
            assert inspect(open_data(url)).splits[0].num_samples == 24
        finally:
            server.shutdown()
            thread.join()
