"""Packing, appending, merging and indexing that die at any of their changes to the disk lose nothing and go on."""

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dist_seg.data.formats.synthetic import SyntheticSource
from dist_seg.data.indexing.index_tars import index_tars
from dist_seg.data.packing.append import append, open_for_append
from dist_seg.data.packing.merge import merge
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.packing.parts import Part
from dist_seg.data.shards.names import MANIFEST_NAME
from dist_seg.data.shards.verify import verify
from tests.failpoints import Failpoints, killed
from tests.integration.commands import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")

_ABOUT_MORE = ("is not in the manifest", "is left over from packing that was interrupted")
"""What is told of files that the data set does not need."""
_SHARD_BYTES = 16_000


def _source(num_train: int) -> SyntheticSource:
    return SyntheticSource(num_train=num_train, num_val=1, height=32, width=32)


def _nothing(root: Path) -> None:
    root.mkdir()


def _few(root: Path) -> None:
    pack(_source(7), root, PackOptions(shard_bytes=_SHARD_BYTES))


def _parts(root: Path) -> None:
    for number in (1, 2):
        pack(
            _source(14),
            root / f"part-{number}-of-2",
            PackOptions(shard_bytes=_SHARD_BYTES),
            part=Part(number=number, count=2),
        )


def _tars(root: Path) -> None:
    """As another tool writes them."""
    _few(root)
    for path in root.iterdir():
        if path.suffix != ".tar":
            path.unlink()
            continue
        again = path.with_name(f"{path.name}.new")
        with tarfile.open(path) as old, tarfile.open(again, "w", format=tarfile.PAX_FORMAT) as new:
            for member in old:
                member.mtime = 1.5  # With a header of PAX's own, which our tars have not.
                new.addfile(member, old.extractfile(member))
        again.replace(path)


def _indexed(root: Path) -> None:
    _tars(root)
    index_tars(root)
    shutil.copy(root / "train-000001.tar", root / "train-000009.tar")
    _rename_samples(root / "train-000009.tar")


def _rename_samples(path: Path) -> None:
    with tarfile.open(path) as old:
        members = [(member, file.read()) for member in old if (file := old.extractfile(member))]
    with tarfile.open(path, "w") as new:
        for member, content in members:
            member.name = f"new-{member.name}"
            new.addfile(member, io.BytesIO(content))


WORKS: Mapping[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "pack": (_nothing, lambda root: pack(_source(14), root, PackOptions(shard_bytes=_SHARD_BYTES))),
    "append": (_few, lambda root: append(_source(14), open_for_append(root), PackOptions(shard_bytes=_SHARD_BYTES))),
    "merge": (_parts, lambda root: merge(root)),
    "index": (_tars, index_tars),
    "index anew": (_indexed, index_tars),
}
"""How a folder is made ready, and what is done in it."""


def die_everywhere(folder: Path, work: str, *, power_cut: bool) -> None:
    """Leaves a folder for every point at which the work was killed, and one for the work that lived."""
    prepare, do = WORKS[work]
    prepare(folder / "before")
    for number in range(1, 1000):
        root = folder / f"{number}"
        shutil.copytree(folder / "before", root)

        def die(root: Path = root, number: int = number) -> None:
            Failpoints(root, number, power_cut=power_cut).install()
            do(root)

        if not killed(die):
            return
    raise AssertionError("the work has no end")


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", params=[(work, how) for work in WORKS for how in ("kill", "power cut")], ids="-".join)
def remains(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The work, and what it has left when it died at every point, in folders by its number, and `before`."""
    work, how = request.param
    folder = tmp_path_factory.mktemp("failpoints")
    call = f"die_everywhere(Path({str(folder)!r}), {work!r}, power_cut={how == 'power cut'})"
    program = f"from {__name__} import *; {call}"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment(), timeout=250)
    return work, folder


def _died(folder: Path) -> list[Path]:
    """In the order of the points; the last is of the work that lived."""
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def test_what_was_there_stays_and_what_is_there_is_whole(remains: tuple[str, Path]) -> None:
    _, folder = remains
    before, whole = _contents(folder / "before"), _contents(_died(folder)[-1])
    manifests = (before.get(MANIFEST_NAME), whole[MANIFEST_NAME])
    assert len(_died(folder)) > 20
    for root in _died(folder):
        found = _contents(root)
        for name, content in before.items():
            if name.endswith(".tar"):
                assert found[name] == content, (root.name, name)
        if MANIFEST_NAME in found:
            assert found[MANIFEST_NAME] in manifests, root.name
            whole_but_for = [problem for problem in verify(root) if not problem.reason.startswith(_ABOUT_MORE)]
            assert whole_but_for == [], root.name


def test_the_next_time_ends_as_if_nothing_had_been(remains: tuple[str, Path]) -> None:
    work, folder = remains
    *died, lived = _died(folder)
    whole = _contents(lived)
    for root in died:
        WORKS[work][1](root)
        assert _contents(root) == whole, root.name
