"""Packing: the same bytes however it is done, nothing bad let in, nothing lost when it is cut off."""

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.folder import PackState
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.shard_plan import plan_shards
from dist_seg.data.raw.source import RawSample, SampleRef
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.sidecar import Sidecar
from dist_seg.errors import DataError, StorageError
from dist_seg.storage.files import PARTIAL_MARK
from dist_seg.storage.object_store import open_storage
from tests.distributed.launched_training import signalled

from ..raw_data import encoded, picture


@dataclass(frozen=True)
class ArraySource:
    """Samples from memory."""

    masks: dict[str, NDArray[np.integer]]
    images: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ("a", "b", "c")
    palette: tuple[tuple[int, int, int], ...] = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    ignore_index: int = 255

    def samples(self) -> Sequence[SampleRef]:
        return [
            SampleRef(
                key=key, split="train", where=f"{key}.jpg", mask_where=f"{key}.png", version=self.versions.get(key, "1")
            )
            for key in self.masks
        ]

    def load(self, sample: SampleRef) -> RawSample:
        mask = self.masks[sample.key]
        image = self.images.get(sample.key)
        if image is None:
            image = encoded(Image.fromarray(picture(*mask.shape)), "PNG")
        return RawSample(image=image, mask=mask)


@dataclass(frozen=True)
class BrokenDiskSource(ArraySource):
    def load(self, sample: SampleRef) -> RawSample:
        raise StorageError("x: cannot be read: Input/output error")


def _mask(*values: int) -> NDArray[np.uint8]:
    """(4, 5), zero but for the values given first."""
    mask = np.zeros(20, np.uint8)
    mask[: len(values)] = values
    return mask.reshape(4, 5)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


_SYNTHETIC = SyntheticSource(num_train=12, num_val=4, height=32, width=32)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    for workers in (1, 2):
        pack(_SYNTHETIC, tmp_path / str(workers), PackOptions(workers=workers, shard_bytes=10_000))
    one, two = _contents(tmp_path / "1"), _contents(tmp_path / "2")
    assert len(one) == 2 + 3 * 6
    assert one == two


def test_what_is_read_back_is_what_was_there(tmp_path: Path) -> None:
    result = pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000))
    storage = open_storage(tmp_path)
    read = {}
    for split in load_manifest(storage).splits.values():
        for shard in split.shards:
            sidecar = Sidecar.parse(storage.read(shard.sidecar_name))
            for i in range(sidecar.num_samples):
                member = sidecar.member(i, "image")
                read[sidecar.key(i)] = storage.read_range(shard.name, member.offset, member.length)
    assert read == {ref.key: _SYNTHETIC.load(ref).image for ref in _SYNTHETIC.samples()}
    assert load_manifest(storage) == result.manifest


def test_pixels_are_counted_by_class(tmp_path: Path) -> None:
    result = pack(ArraySource({"x": _mask(1, 1, 2, 255), "y": _mask(2)}), tmp_path)
    assert result.manifest.splits["train"].class_pixels == (35, 2, 2)
    assert result.manifest.splits["train"].ignored_pixels == 1


def test_progress_counts_samples_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack(_SYNTHETIC, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 16)
    assert seen[-1] == (16, 16)
    assert seen == sorted(seen)


def test_packing_again_keeps_every_shard(tmp_path: Path) -> None:
    first = pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000))
    before = _contents(tmp_path)
    again = pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000))
    assert (again.written_shards, again.kept_shards) == (0, first.written_shards)
    assert (_contents(tmp_path), again.manifest) == (before, first.manifest)


def test_packing_again_mends_a_damaged_shard(tmp_path: Path) -> None:
    pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000))
    before = _contents(tmp_path)
    damaged = bytearray(before["train-000001.tar"])
    damaged[700] ^= 1
    (tmp_path / "train-000001.tar").write_bytes(damaged)
    (tmp_path / "train-000000.idx").unlink()
    again = pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000))
    assert again.written_shards == 2
    assert _contents(tmp_path) == before


_PACK_SCRIPT = """
import sys, time
from pathlib import Path
from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
class Slow(SyntheticSource):
    def load(self, sample):
        time.sleep(0.02)
        return super().load(sample)
if __name__ == "__main__":
    source = Slow(num_train=60, num_val=4, height=32, width=32)
    pack(source, Path(sys.argv[1]), PackOptions(workers=int(sys.argv[2]), shard_bytes=10_000))
"""


def _start_packing(script: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    script.write_text(_PACK_SCRIPT)
    root = str(Path(__file__).resolve().parents[4])
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(workers)], env={**os.environ, "PYTHONPATH": root}
    )


def _wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob(".pack/*.json"))) < count:
        assert time.monotonic() < deadline, "packing did not begin"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_packing_that_was_killed_goes_on(tmp_path: Path, workers: int) -> None:
    source = SyntheticSource(num_train=60, num_val=4, height=32, width=32)
    process = _start_packing(tmp_path / "script.py", tmp_path / "out", workers)
    _wait_for_shards(tmp_path / "out", 2)
    # Its workers, too: one that outlives it for a moment may still begin a partial file, which the next packing clears.
    signalled(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "manifest.json").exists()
    result = pack(source, tmp_path / "out", PackOptions(shard_bytes=10_000))
    assert result.kept_shards >= 2
    pack(source, tmp_path / "whole", PackOptions(shard_bytes=10_000))
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


def test_the_workers_of_a_killed_packing_end(tmp_path: Path) -> None:
    process = _start_packing(tmp_path / "script.py", tmp_path / "out", 2)
    _wait_for_shards(tmp_path / "out", 1)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


class _DiesElsewhere(SyntheticSource):
    """Its reader brings down any process but the one that packs, and is slow enough there for another to start."""

    def load(self, sample: SampleRef) -> RawSample:
        time.sleep(0.05)
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(sample)


def test_a_worker_that_dies_ends_packing_with_advice_and_what_is_packed_stays(tmp_path: Path) -> None:
    parts = {"num_train": 200, "num_val": 4, "height": 16, "width": 16}
    with pytest.raises(DataError, match="died without an error, perhaps killed for using too much memory"):
        pack(_DiesElsewhere(**parts), tmp_path / "out", PackOptions(workers=2, shard_bytes=10_000))
    result = pack(SyntheticSource(**parts), tmp_path / "out", PackOptions(shard_bytes=10_000))
    assert result.kept_shards >= 1
    pack(SyntheticSource(**parts), tmp_path / "whole", PackOptions(shard_bytes=10_000))
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


def test_two_packings_into_one_folder_are_refused(tmp_path: Path) -> None:
    process = _start_packing(tmp_path / "script.py", tmp_path / "out", 1)
    try:
        _wait_for_shards(tmp_path / "out", 1)
        with pytest.raises(DataError, match="by another process"):
            pack(_SYNTHETIC, tmp_path / "out")
    finally:
        process.kill()
        process.wait()


def test_after_an_interruption_only_changed_samples_are_packed_again(tmp_path: Path) -> None:
    masks = {f"k{i:02d}": _mask(i % 3) for i in range(30)}
    last = plan_shards(ArraySource(masks).samples(), 300_000, ())[-1].samples[0].key
    with pytest.raises(DataError, match=rf"{last}\.png"):
        pack(ArraySource({**masks, last: _mask(9)}), tmp_path / "out", PackOptions(shard_bytes=300_000))
    mended = ArraySource(masks, versions={last: "new"})
    result = pack(mended, tmp_path / "out", PackOptions(shard_bytes=300_000))
    assert (result.kept_shards, result.written_shards) == (6, 1)
    pack(mended, tmp_path / "whole", PackOptions(shard_bytes=300_000))
    assert _contents(tmp_path / "out") == _contents(tmp_path / "whole")


def test_a_finished_data_set_is_replaced_only_on_demand(tmp_path: Path) -> None:
    pack(ArraySource({f"k{i}": _mask() for i in range(9)}), tmp_path, PackOptions(shard_bytes=200_000))
    changed = ArraySource({"k0": _mask(1)}, versions={"k0": "2"})
    with pytest.raises(DataError, match=r"source has changed.*--overwrite"):
        pack(changed, tmp_path)
    pack(changed, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "pack.json",
        "train-000000.idx",
        "train-000000.samples",
        "train-000000.tar",
    ]


_UNVERSIONED = dict.fromkeys(("k0", "k1", "k2"), "")


def test_samples_without_a_version_are_not_taken_for_what_was_packed(tmp_path: Path) -> None:
    masks = {key: _mask() for key in _UNVERSIONED}
    pack(ArraySource(masks, versions=_UNVERSIONED), tmp_path)
    before = _contents(tmp_path)
    relabelled = ArraySource({key: _mask(1, 1) for key in masks}, versions=_UNVERSIONED)
    with pytest.raises(DataError, match=r"without a version.*--append.*--overwrite"):
        pack(relabelled, tmp_path)
    assert _contents(tmp_path) == before
    result = pack(relabelled, tmp_path, overwrite=True)
    assert (result.kept_shards, result.manifest.split("train").class_pixels) == (0, (54, 6, 0))


def test_packing_that_was_cut_off_begins_anew_with_samples_without_a_version(tmp_path: Path) -> None:
    """The reader may have been mended meanwhile."""
    masks = {key: _mask() for key in _UNVERSIONED}
    last = plan_shards(ArraySource(masks).samples(), 1, ())[-1].samples[0].key
    with pytest.raises(DataError, match=rf"{last}\.png"):
        pack(ArraySource({**masks, last: _mask(9)}, versions=_UNVERSIONED), tmp_path, PackOptions(shard_bytes=1))
    assert len(list(tmp_path.glob("*.tar"))) == 2
    result = pack(
        ArraySource({key: _mask(1) for key in masks}, versions=_UNVERSIONED), tmp_path, PackOptions(shard_bytes=1)
    )
    assert (result.kept_shards, result.manifest.split("train").class_pixels) == (0, (57, 3, 0))


def test_data_of_an_earlier_version_is_said_to_be_that(tmp_path: Path) -> None:
    source = ArraySource({"k": _mask()})
    manifest = pack(source, tmp_path).manifest
    earlier = replace(manifest, format_version=1).to_json()
    (tmp_path / "manifest.json").write_text(earlier)
    record = tmp_path / "pack.json"
    fingerprint = json.loads(record.read_text())["shards"][0]["fingerprint"]
    record.write_text(record.read_text().replace(fingerprint, "0" * 64))  # the version is part of it
    with pytest.raises(DataError, match=r"that an earlier version of dist-seg packed.*use it as it is.*--overwrite"):
        pack(source, tmp_path)
    assert (tmp_path / "manifest.json").read_text() == earlier
    assert pack(source, tmp_path, overwrite=True).manifest == manifest


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("")
    with pytest.raises(DataError, match=r"not packed here \(thesis\.docx"):
        pack(ArraySource({"x": _mask()}), tmp_path)


@pytest.mark.parametrize("name", ["imagenet-000000.tar", "train-000000.tar", "manifest.json", "train-000000.idx"])
def test_another_tool_s_shards_are_refused_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not ours")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=rf"holds files that were not packed here \({name}\)"):
            pack(ArraySource({"x": _mask()}), tmp_path, overwrite=overwrite)
    assert _contents(tmp_path) == {name: b"not ours"}


def test_another_tool_s_shards_beside_ours_are_never_touched(tmp_path: Path) -> None:
    pack(ArraySource({f"k{i}": _mask() for i in range(4)}), tmp_path, PackOptions(shard_bytes=100_000))
    (tmp_path / "train-000007.tar").write_text("not ours")
    pack(ArraySource({"x": _mask()}), tmp_path, overwrite=True)
    assert (tmp_path / "train-000007.tar").read_text() == "not ours"
    with pytest.raises(DataError, match=r"train-000007\.tar"):
        pack(ArraySource({f"k{i}": _mask() for i in range(9)}), tmp_path, PackOptions(shard_bytes=1), overwrite=True)
    assert (tmp_path / "train-000007.tar").read_text() == "not ours"


@pytest.mark.parametrize("theirs", ["notes", "names"])
def test_a_hidden_folder_of_others_makes_nothing_ours(tmp_path: Path, theirs: str) -> None:
    (tmp_path / ".pack").mkdir()
    (tmp_path / ".pack" / theirs).write_text("mine")
    (tmp_path / "train-000000.tar").write_text("mine")
    with pytest.raises(DataError, match=r"not packed here \(train-000000\.tar\)"):
        pack(ArraySource({"x": _mask()}), tmp_path, overwrite=True)
    assert [path.read_text() for path in (tmp_path / ".pack" / theirs, tmp_path / "train-000000.tar")] == ["mine"] * 2


def test_a_file_where_the_hidden_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / ".pack").write_text("mine")
    with pytest.raises(DataError, match=r"\.pack: cannot be written: a file lies where a folder is needed"):
        pack(ArraySource({"x": _mask()}), tmp_path)
    assert (tmp_path / ".pack").read_text() == "mine"


def test_files_of_others_in_the_hidden_folder_stay(tmp_path: Path) -> None:
    (tmp_path / ".pack" / "folder").mkdir(parents=True)
    (tmp_path / ".pack" / f"notes.json{PARTIAL_MARK}1").write_text("mine")
    pack(ArraySource({"x": _mask()}), tmp_path)
    assert [path.name for path in sorted((tmp_path / ".pack").iterdir())] == ["folder", "notes.json.partial-1"]


def test_a_shard_that_was_written_and_not_yet_recorded_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(state: PackState, shard: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PackState, "record", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000))
    assert (tmp_path / "train-000000.tar").exists()
    assert pack(_SYNTHETIC, tmp_path, PackOptions(shard_bytes=10_000)).kept_shards == 0


def test_a_lock_that_its_last_holder_removed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another packing ends between our opening its lock file and locking it, and a third one begins."""
    lock, real = tmp_path / ".pack.lock", fcntl.flock
    third: list[TextIO] = []

    def overtaken(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        lock.unlink()
        third.append(lock.open("w"))
        real(third[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with pytest.raises(DataError, match="by another process"):
        pack(ArraySource({"x": _mask()}), tmp_path)
    third[0].close()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="cannot be created"):
        pack(ArraySource({"x": _mask()}), tmp_path / "out")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            _mask(0, 0, 0, 0, 0, 0, 7),
            r"x\.png: class id 7 at \(x=1, y=1\) \(1 such pixels\); the data set has 3 classes",
        ),
        (_mask().astype(np.int32) - 1, r"x\.png: class id -1 at \(x=0, y=0\) \(20 such pixels\)"),
        (np.full((4, 5), 256, np.int32), r"class id 256 at"),
        (np.zeros((5, 4), np.uint8), r"x\.png: the mask is 4x5 .*x\.jpg 5x4.*EXIF"),
        (np.zeros((2, 2), np.uint8), r"x\.png: the mask is 2x2 \(width x height\), its image x\.jpg 5x4"),
        (np.zeros((4, 5, 3), np.uint8), r"x\.png: the reader gave a mask of shape 4x5x3 and type uint8"),
        (np.full((4, 5), 0.5), r"x\.png: the reader gave a mask of shape 4x5 and type float64; .*integer"),
        ([[0] * 5] * 4, r"x\.png: the reader gave a list for the mask; it must be a NumPy array"),
    ],
)
def test_a_wrong_mask_is_refused_by_file_value_and_position(tmp_path: Path, mask: object, message: str) -> None:
    image = encoded(Image.fromarray(picture(4, 5)), "PNG")
    with pytest.raises(DataError, match=message):
        pack(ArraySource({"x": mask}, {"x": image}), tmp_path)  # type: ignore[dict-item]  # what readers may give
    assert not (tmp_path / "manifest.json").exists()


def test_a_mask_of_bools_is_of_the_classes_0_and_1(tmp_path: Path) -> None:
    result = pack(ArraySource({"x": _mask(1, 1, 0, 1).astype(bool)}), tmp_path)
    assert result.manifest.splits["train"].class_pixels == (17, 3, 0)


def test_every_bad_sample_of_a_shard_is_named(tmp_path: Path) -> None:
    masks = {f"k{i}": _mask(9 if i in (2, 5) else 0) for i in range(8)}
    with pytest.raises(DataError, match=r"(?s)2 samples cannot be packed.*k2\.png.*k5\.png.*--skip-bad"):
        pack(ArraySource(masks), tmp_path)


def test_bad_samples_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    half = encoded(Image.fromarray(picture(40, 50)), "JPEG")[:700]
    source = ArraySource({"good": _mask(1), "bad": _mask(9), "half": _mask()}, {"half": half})
    result = pack(source, tmp_path, PackOptions(skip_bad=True))
    assert sorted(refusal.key for refusal in result.skipped) == ["bad", "half"]
    assert any("half.jpg: cannot be decoded" in refusal.reason for refusal in result.skipped)
    split = load_manifest(open_storage(tmp_path)).splits["train"]
    assert (split.num_samples, split.skipped_samples, split.class_pixels) == (1, 2, (19, 1, 0))


def test_a_shard_of_which_all_is_bad_is_left_out(tmp_path: Path) -> None:
    masks = {f"k{i}": _mask(9 if i < 9 else 0) for i in range(10)}
    source = ArraySource(masks)
    result = pack(source, tmp_path, PackOptions(skip_bad=True, shard_bytes=1))
    assert result.manifest.splits["train"].num_samples == 1
    assert len(list(tmp_path.glob("*.tar"))) == 1
    assert pack(source, tmp_path, PackOptions(skip_bad=True, shard_bytes=1)).written_shards == 0


def test_skipped_samples_are_refused_again_without_leave(tmp_path: Path) -> None:
    source = ArraySource({"good": _mask(), "bad": _mask(9)})
    pack(source, tmp_path, PackOptions(skip_bad=True))
    with pytest.raises(DataError, match=r"bad\.png"):
        pack(source, tmp_path)


def test_nothing_but_bad_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not one sample of split train.*bad\.png"):
        pack(ArraySource({"bad": _mask(9)}), tmp_path, PackOptions(skip_bad=True))


def test_a_failing_disk_is_not_a_bad_sample(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Input/output error"):
        pack(BrokenDiskSource({"x": _mask()}), tmp_path, PackOptions(skip_bad=True))


def test_bad_samples_in_workers_are_named(tmp_path: Path) -> None:
    masks = {f"k{i:02d}": _mask(9 if i == 3 else 0) for i in range(12)}
    with pytest.raises(DataError, match=r"k03\.png: class id 9 at \(x=0, y=0\)"):
        pack(ArraySource(masks), tmp_path, PackOptions(workers=2, shard_bytes=200_000))


def test_images_over_the_limit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.jpg: 5x4 pixels are more than the allowed 19"):
        pack(ArraySource({"x": _mask()}), tmp_path, PackOptions(max_pixels=19))


def test_a_full_disk_is_named_and_leaves_no_half_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:  # the first two belong to the record of what is going to be written
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"train-000000\.\w+: cannot be written: No space left on device"):
        pack(ArraySource({"x": _mask()}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".pack"]


def test_unreadable_records_count_as_nothing_packed(tmp_path: Path) -> None:
    pack(_SYNTHETIC, tmp_path)
    for record in ("{", "[]", "[{}]", json.dumps([{"split": 1}])):
        (tmp_path / "pack.json").write_text(record)
        assert pack(_SYNTHETIC, tmp_path, overwrite=True).kept_shards == 0


def test_packing_needs_neither_torch_nor_dali() -> None:
    code = (
        "import sys, dist_seg.data.packing.pack, dist_seg.data.shards.verify, dist_seg.data.formats.folder\n"
        "import dist_seg.data.inspection.summary, dist_seg.data.inspection.sheets\n"
        "import dist_seg.data.inspection.trouble\n"
        "sys.exit(any(name.split('.')[0] in ('torch', 'nvidia') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
