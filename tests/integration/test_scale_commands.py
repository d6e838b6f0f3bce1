"""Packing in parts, merging, appending, shrinking and indexing as a user calls them, in processes of their own."""

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.commands import command, dist_seg, environment

_SYNTHETIC = ["pack", "synthetic"]
_SIZES = ["--size", 32, 32, "--val-images", 4, "--shard-mb", 0.02, "--workers", 1]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _said(*arguments: object, cwd: Path, returns: int = 0) -> str:
    result = dist_seg(*arguments, cwd=cwd)
    assert result.returncode == returns, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr if returns else result.stdout


def test_parts_packed_at_the_same_time_are_merged_to_the_bytes_of_one_packing(tmp_path: Path) -> None:
    parts = [
        subprocess.Popen(
            command(*_SYNTHETIC, "out", *_SIZES, "--train-images", 16, "--part", f"{number}/3"),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2, 3)
    ]
    said = [part.communicate(timeout=120)[0] for part in parts]
    assert [part.returncode for part in parts] == [0, 0, 0]
    assert all("once all 3 parts are packed: dist-seg merge out" in text for text in said)
    merged = _said("merge", "out", cwd=tmp_path)
    assert "16 samples in" in merged and "shards linked" in merged
    _said(*_SYNTHETIC, "whole", *_SIZES, "--train-images", 16, cwd=tmp_path)
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert "as it was packed" in _said("verify", "out", cwd=tmp_path)
    assert "there already" in _said("merge", "out", cwd=tmp_path)


def test_what_is_new_is_appended_and_the_old_shards_stay(tmp_path: Path) -> None:
    few, more = ["--train-images", 8], ["--train-images", 12]
    assert "--append" in _said(*_SYNTHETIC, "out", *_SIZES, *few, "--append", cwd=tmp_path, returns=2)
    _said(*_SYNTHETIC, "out", *_SIZES, *few, cwd=tmp_path)
    before = _files(tmp_path / "out")
    assert "add what is new (--append)" in _said(*_SYNTHETIC, "out", *_SIZES, *more, cwd=tmp_path, returns=2)
    added = _said(*_SYNTHETIC, "out", *_SIZES, *more, "--append", cwd=tmp_path)
    assert "12 samples of the source were there already" in added
    after = _files(tmp_path / "out")
    assert all(after[name] == data for name, data in before.items() if not name.endswith(".json"))
    assert "nothing to append" in _said(*_SYNTHETIC, "out", *_SIZES, *more, "--append", cwd=tmp_path)
    assert "as it was packed" in _said("verify", "out", cwd=tmp_path)


def _write_pairs(folder: Path, names: list[str]) -> list[Path]:
    """Folders of images and masks, beside a `classes.txt`."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("background\nthing\n")
    for number, name in enumerate(names):
        values = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{name}.png")
        Image.fromarray(values[..., 0] // 128).save(folder / "masks" / f"{name}.png")
    return [folder / "images", folder / "masks"]


def test_of_what_is_appended_groups_stay_on_their_side(tmp_path: Path) -> None:
    first = _write_pairs(tmp_path / "first", [f"patient{p}_{i}" for p in range(8) for i in range(2)])
    grouped = ["--group-by", r"^(patient\d+)", "--val", 0.2]
    _said("pack", "folder", *first, "out", *grouped, cwd=tmp_path)
    for p in range(8):  # One at a time, of which one side would be empty.
        more = _write_pairs(tmp_path / f"more{p}", [f"patient{p}_new"])
        _said("pack", "folder", *more, "out", "--append", *(grouped if p % 2 else []), cwd=tmp_path)
    sides: dict[str, set[str]] = {}
    for tar in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(tar) as file:
            for name in file.getnames():
                sides.setdefault(name.split("_")[0], set()).add(tar.name.split("-")[0])
    assert len(sides) == 8 and all(len(side) == 1 for side in sides.values())
    refused = _said("pack", "folder", *more, "out", "--append", "--val", 0.5, cwd=tmp_path, returns=2)
    assert "out: was divided with --val 0.2; append with the same, or leave --val out" in refused


def test_a_shard_without_samples_is_not_said_to_be_added(tmp_path: Path) -> None:
    _said("pack", "folder", *_write_pairs(tmp_path / "first", ["a", "b"]), "out", cwd=tmp_path)
    more = _write_pairs(tmp_path / "more", ["bad"])
    (more[0] / "bad.png").write_bytes(b"no image")
    said = _said("pack", "folder", *more, "out", "--append", "--skip-bad", cwd=tmp_path)
    assert "0 samples of the source were there already: nothing to append" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "3/2"], "--part 3/2: write it as I/N"),
        (["--part", "1/2", "--append"], "not allowed with argument"),
        (["--overwrite", "--append"], "not allowed with argument"),
        (["--max-side", 0], "--max-side 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: list[object], message: str) -> None:
    assert message in _said(*_SYNTHETIC, "out", "--train-images", 1, *options, cwd=tmp_path, returns=2)


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    _said(*_SYNTHETIC, "out", *_SIZES, "--train-images", 2, "--max-side", 16, cwd=tmp_path)
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            assert Image.open(io.BytesIO(file.read())).size == (16, 16)


def _write_tar(path: Path, count: int) -> None:
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            rng = np.random.default_rng(i)
            arrays = {
                "image.png": rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
                "mask.png": rng.integers(0, 3, (24, 32), dtype=np.uint8),
            }
            for suffix, array in arrays.items():
                file = io.BytesIO()
                Image.fromarray(array).save(file, "PNG")
                info = tarfile.TarInfo(f"s{i}.{suffix}")
                info.size = len(file.getvalue())
                tar.addfile(info, io.BytesIO(file.getvalue()))


def test_tars_of_others_are_indexed(tmp_path: Path) -> None:
    for name in ("a-0.tar", "b-0.tar"):
        _write_tar(tmp_path / name, 3)
    call = ["index", ".", "--image-suffix", "image.png", "--mask-suffix", "mask.png"]
    assert "its name contains no split" in _said(*call, cwd=tmp_path, returns=2)
    assert "--split train: write it as NAME=GLOB" in _said(*call, "--split", "train", cwd=tmp_path, returns=2)
    call += ["--split", "train=a-*", "--split", "val=b-*"]
    said = _said(*call, cwd=tmp_path)
    assert "the classes are the values found in the masks, 0 to 2" in said
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert "class id 2 at" in _said(*call, cwd=tmp_path, returns=2)
    (tmp_path / "classes.txt").write_text("sky\nroad\nvoid\n")
    assert "2 classes (sky, road)" in _said(*call, cwd=tmp_path)
    assert "2 tars were indexed already" in _said(*call, cwd=tmp_path)
    assert "as it was packed" in _said("verify", ".", cwd=tmp_path)
    assert "indexed tars that dist-seg did not write" in _said(*_SYNTHETIC, ".", "--overwrite", cwd=tmp_path, returns=2)
    assert "takes a local folder" in _said("index", "s3://bucket/tars", cwd=tmp_path, returns=2)
    assert "takes local folders" in _said("merge", "out", "s3://bucket/tars", cwd=tmp_path, returns=2)
