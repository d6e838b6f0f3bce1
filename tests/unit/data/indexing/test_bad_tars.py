"""Indexing tars that cannot be used as they lie, or are made to harm."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.indexing.index_tars import index_tars
from dist_seg.data.indexing.rules import TarLayout
from dist_seg.data.raw.classes import read_classes
from dist_seg.data.shards.verify import verify
from dist_seg.errors import DataError

from ..raw_data import encoded, picture
from ..tar_data import HEIGHT, WIDTH, as_png, read_all, tar_mask, tar_sample, tar_samples, write_tar

_ROTATED = Image.Exif()
_ROTATED[0x0112] = 6
_BAD = {
    "16 bits": (
        {"seg.png": as_png(tar_mask().astype(np.uint16))},
        r"\.seg\.png: must be an 8-bit grey PNG.*16-bit PNG",
    ),
    "colours": ({"seg.png": as_png(picture(HEIGHT, WIDTH))}, "must be an 8-bit grey PNG"),
    "palette": ({"seg.png": encoded(Image.fromarray(tar_mask()).convert("P"), "PNG")}, "must be an 8-bit grey PNG"),
    "jpeg mask": ({"seg.png": encoded(Image.fromarray(tar_mask()), "JPEG")}, "8-bit JPEG"),
    "half a mask": ({"seg.png": as_png(tar_mask())[:90]}, "PNG that is cut off"),
    "another size": ({"seg.png": as_png(tar_mask()[:9])}, "30x9 pixels, the image has 30x20"),
    "no mask": ({"seg.png": None}, r"has no mask \(\.seg\.png\) among its members jpg; .*--mask-suffix"),
    "no image": ({"jpg": None, "webp": b"x"}, r"has no image \(\.jpg, \.jpeg, \.png\)"),
    "two images": ({"png": as_png(picture(HEIGHT, WIDTH))}, "has 2 images"),
    "half an image": ({"jpg": tar_sample()["jpg"][:300]}, "cannot be decoded"),
    "turned": (
        {"jpg": encoded(Image.fromarray(picture(HEIGHT, WIDTH)), "JPEG", exif=_ROTATED.tobytes())},
        r"\.jpg: cannot be used in place \(an EXIF orientation",
    ),
    "transparent": ({"jpg": None, "png": as_png(np.zeros((HEIGHT, WIDTH, 4), np.uint8))}, "has transparent pixels"),
    "no such class": ({"seg.png": as_png(tar_mask(classes=9))}, r"class id \d .*the data set has 3 classes"),
}


@pytest.mark.parametrize("name", _BAD)
def test_a_sample_that_cannot_be_used_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    changes, message = _BAD[name]
    bad = {suffix: data for suffix, data in {**tar_sample(), **changes}.items() if data is not None}
    tar = write_tar(tmp_path / "train-0.tar", {"good": tar_sample(1), "s": bad})
    before = tar.read_bytes()
    (tmp_path / "names").write_text("a\nb\nc\n")
    classes = read_classes(tmp_path / "names")
    with pytest.raises(DataError, match=rf"(?s)train-0\.tar: s.*{message}.*--skip-bad"):
        index_tars(tmp_path, TarLayout(classes=classes))
    result = index_tars(tmp_path, TarLayout(classes=classes), skip_bad=True)
    split = result.manifest.split("train")
    assert (split.num_samples, split.skipped_samples, [r.key for r in result.skipped]) == (1, 1, ["s"])
    assert list(read_all(tmp_path)) == ["good"]
    assert verify(tmp_path) == []
    assert tar.read_bytes() == before


def test_a_tar_that_cannot_be_read_in_place_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train-0.tar", tar_samples(2))
    whole = tar.read_bytes()
    for data, message in (
        (whole[:3000], "has no end mark: it is cut off, or still being written"),
        (whole.rstrip(b"\0"), "has no end mark: it is cut off, or still being written"),
        (whole + whole, "continues after its end mark"),
        (b"\x1f\x8b" + whole, "is compressed with gzip"),
        (b"x" * 5000, "has no tar header at byte 0"),
    ):
        tar.write_bytes(data)
        with pytest.raises(DataError, match=rf"train-0\.tar: {message}"):
            index_tars(tmp_path, skip_bad=True)
    tar.rename(tmp_path / "train-0.tar.gz")
    with pytest.raises(DataError, match=r"train-0\.tar\.gz: is compressed"):
        index_tars(tmp_path)


def test_members_of_a_sample_must_lie_together(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for suffix in ("jpg", "seg.png"):
            for key, members in tar_samples(2).items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(members[suffix])
                tar.addfile(info, io.BytesIO(members[suffix]))
    with pytest.raises(DataError, match=r"'s000\.seg\.png' apart from the others of its sample.*--sort=name"):
        index_tars(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (tarfile.SYMTYPE, "s000.txt", "a symbolic link"),
        (tarfile.LNKTYPE, "s000.txt", "a hard link"),
        (tarfile.REGTYPE, "../x", "leads out of the folder"),
        (tarfile.REGTYPE, "/etc/x", "leads out of the folder"),
        (tarfile.REGTYPE, "ö" * 200 + "/../../x", "leads out of the folder"),
    ],
)
def test_a_tar_that_is_made_to_harm_is_refused_and_found(tmp_path: Path, kind: bytes, name: str, message: str) -> None:
    tar_path = write_tar(tmp_path / "train-0.tar", tar_samples(1))
    index_tars(tmp_path)
    with tarfile.open(tar_path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=message):
        index_tars(tmp_path)
    _admit(tmp_path, tar_path)
    assert [message in problem.reason for problem in verify(tmp_path)] == [True]


def _admit(folder: Path, tar: Path) -> None:
    """The manifest says that the tar is as it is now."""
    import hashlib

    from dist_seg.data.shards.manifest_parsing import parse_manifest

    document = json.loads((folder / "manifest.json").read_text())
    shard = document["splits"]["train"]["shards"][0]
    shard["bytes"], shard["sha256"] = tar.stat().st_size, hashlib.sha256(tar.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(parse_manifest(json.dumps(document).encode(), "x").to_json())


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        write_tar(tmp_path / name, tar_samples(2))
    with pytest.raises(DataError, match=r"train-0\.tar and .*train-1\.tar: the key 's000' is twice in split train"):
        index_tars(tmp_path)
