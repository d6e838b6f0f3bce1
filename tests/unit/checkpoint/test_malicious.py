"""Checkpoints that someone has made to do harm: refused with a clear error, in a folder and in an object store."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_seg.checkpoint.reading import COMMIT_NAME, damages, load_checkpoint, load_weights, verify_checkpoint
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.errors import CheckpointError
from dist_seg.storage.object_store import open_storage, open_writable
from tests.unit.checkpoint.states import state_of

Replace = Callable[[str, bytes], None]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._mark}",)


@pytest.fixture(params=["folder", "object store"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A whole checkpoint of step 1."""
    root = tmp_path / "checkpoints" if request.param == "folder" else request.getfixturevalue("s3_url")
    return CheckpointStore(root).save(state_of(1))


@pytest.fixture
def replace(location: str) -> Replace:
    """Puts another content in the place of a file, with the checksum that fits it."""

    def put(name: str, content: bytes) -> None:
        checksums = json.loads(open_storage(location).read(COMMIT_NAME))
        checksums[name] = hashlib.sha256(content).hexdigest()
        for file, data in ((name, content), (COMMIT_NAME, json.dumps(checksums).encode())):
            put_plainly(location, file, data)

    return put


def put_plainly(location: str, name: str, content: bytes) -> None:
    if "://" in location:
        open_writable(location).write(name, [content])
    else:
        Path(location, name).write_bytes(content)


@pytest.mark.parametrize("name", ["model", "ema", "optimizer"])
def test_a_pickle_in_the_place_of_tensors_is_not_executed(
    location: str, replace: Replace, name: str, tmp_path: Path
) -> None:
    replace(f"{name}.safetensors", pickle.dumps(Payload(tmp_path / "owned")))
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors: unreadable tensors"):
        load_checkpoint(location)
    assert damages(location) != []
    assert not (tmp_path / "owned").exists()


def test_a_header_of_absurd_length_is_refused(location: str, replace: Replace) -> None:
    replace("model.safetensors", (2**62).to_bytes(8, "little") + bytes(100))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: unreadable tensors"):
        load_weights(location, "raw")


@pytest.mark.parametrize("name", ["/etc/passwd", "../step-00000009/model.safetensors", "code.py"])
def test_checksums_of_a_strange_file_are_refused_before_anything_is_read(location: str, name: str) -> None:
    checksums = json.loads(open_storage(location).read(COMMIT_NAME))
    put_plainly(location, COMMIT_NAME, json.dumps({**checksums, name: "0" * 64}).encode())
    for use in (load_checkpoint, verify_checkpoint):
        with pytest.raises(CheckpointError, match=rf"names '{name}', which is no file of a checkpoint"):
            use(location)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "checkpoint format 99, this version reads 1"),
        ({"step": 2}, "is of step 2, but its folder is named after another step"),
        ({"step": "/etc/passwd"}, "step is '/etc/passwd'"),
        ({"step": -1}, "step is -1"),
        ({"step": True}, "step is True"),
        ({"config": ["a"]}, r"config is \['a'\]: expected object"),
        ({"bad_samples": {"k": 1}}, "bad_samples.k is 1: expected str"),
        ({"bad_shards": "../other"}, "bad_shards is '../other': expected object"),
        ({"bad_shards": {"train-000001.tar": ["gone"]}}, r"bad_shards\['train-000001\.tar'\] is \['gone'\]: exp"),
        ({"loss_scale": "1"}, "loss_scale is '1': expected float"),
        ({"loss_scale_good_steps": 0.5}, "loss_scale_good_steps is 0.5: expected int"),
        ({"origin": 3}, "origin is 3: expected str"),
        ({"model": "../other/model.safetensors"}, "model is no field of a checkpoint's description"),
    ],
)
def test_a_description_that_points_elsewhere_is_refused(
    location: str, replace: Replace, change: dict[str, object], message: str
) -> None:
    meta = json.loads(open_storage(location).read("meta.json"))
    replace("meta.json", json.dumps({**meta, **change}).encode())
    with pytest.raises(CheckpointError, match=rf"meta\.json: .*{message}"):
        load_checkpoint(location)


@pytest.mark.parametrize("text", [b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_a_description_that_is_no_description_is_refused(location: str, replace: Replace, text: bytes) -> None:
    replace("meta.json", text)
    with pytest.raises(CheckpointError, match=r"meta\.json: "):
        load_checkpoint(location)
