"""How well does `dist-seg inspect` find faulty masks, and what does it cost compared with a bare decode of the images?

    python benchmarks/find_trouble.py data/camvid --split val [--turns 5]

Masks of a packed data set are shifted, rotated and exchanged, a fifth of them at a time, until every mask was faulty
once. The result is how many of the faulty masks are named, and how many of the others. The cost is compared, in the
same run and in turns, with Pillow decoding the same images and masks from memory; both run in one process.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from dist_seg.data.codecs.encoded import UNKNOWN
from dist_seg.data.codecs.headers import MAX_PIXELS
from dist_seg.data.inspection.checks.mask_checks import mask_findings
from dist_seg.data.inspection.samples.alignment import REACH, TURNS
from dist_seg.data.inspection.samples.decoded import SampleView, read_members, view_sample
from dist_seg.data.inspection.samples.look import Looked
from dist_seg.data.inspection.samples.measures import MEASURES, measure
from dist_seg.data.inspection.table import SampleTable
from dist_seg.data.inspection.trouble import find_trouble
from dist_seg.data.shards.manifest import Manifest
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.opened import open_data, read_unchecked_sidecar
from dist_seg.storage.object_store import open_storage

_FOLDS = 5
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))
_ALIGNMENT = ("shifted_split", "shifted", "turned", "misfit")

Measured = tuple[np.ndarray, np.ndarray | None]
Fault = Callable[[Sequence[SampleView], int], SampleView | None]
"""None for a sample that it cannot be done to."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--split", default="val")
    parser.add_argument("--turns", type=int, default=5, help="turns of the cost measurement; 0 skips it")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    options = parser.parse_args()
    storage = open_storage(options.shards)
    manifest = load_manifest(storage)
    members, views = [], []
    for shard in manifest.split(options.split).shards:
        sidecar = read_unchecked_sidecar(storage, shard)
        for index in range(sidecar.num_samples):
            members.append(read_members(storage, shard, sidecar, index))
            size = (sidecar.height(index), sidecar.width(index))
            views.append(view_sample(members[-1], manifest, *size, MAX_PIXELS))
    clean = [_measured(view) for view in views]
    figures: dict[str, object] = {"samples": len(views)}
    print(f"{len(views)} masks of {options.split}; unchanged: {_kinds(manifest, clean) or 'nothing found'}")
    print(f"{'fault':24s}{'named':>8s}{'of':>6s}  {'correctly':>14s}{'others named':>14s}")
    for name, fault in _faults().items():
        figures[name] = _rates(manifest, views, clean, name, fault)
    for pixels in (2, 4, 8, 16):
        every = [_measured(_shifted(view, pixels, 0)) for view in views]
        print(f"all shifted by {pixels} px down: {_kinds(manifest, every)}")
    if options.turns:
        figures["cost"] = _cost(options.shards, options.split, members, options.turns)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _faults() -> dict[str, Fault]:
    faults: dict[str, Fault] = {}
    for pixels in (4, 8, 16):

        def shift(views: Sequence[SampleView], i: int, pixels: int = pixels) -> SampleView:
            down, right = _DIRECTIONS[i % len(_DIRECTIONS)]
            return _shifted(views[i], pixels * down, pixels * right)

        faults[f"shifted by {pixels} px"] = shift
    for name in ("mirrored", "upside down", "turned by 180 degrees"):

        def turn(views: Sequence[SampleView], i: int, name: str = name) -> SampleView:
            return replace(views[i], layers=np.ascontiguousarray(TURNS[name](views[i].layers)))

        faults[name] = turn
    order = np.random.default_rng(0).permutation(10_000)

    def random_other(views: Sequence[SampleView], i: int) -> SampleView | None:
        size = views[i].layers.shape
        others = [k for k in order[order < len(views)] if k != i and views[k].layers.shape == size]
        return replace(views[i], layers=views[others[i % len(others)]].layers) if others else None

    def neighbour(views: Sequence[SampleView], i: int) -> SampleView | None:
        other = views[(i + 1) % len(views)]
        return replace(views[i], layers=other.layers) if other.layers.shape == views[i].layers.shape else None

    return {**faults, "mask of any other image": random_other, "mask of the next image": neighbour}


def _rates(
    manifest: Manifest, views: Sequence[SampleView], clean: Sequence[Measured], name: str, fault: Fault
) -> dict[str, int]:
    spoiled = [fault(views, i) for i in range(len(views))]
    faulty = {i: _measured(view) for i, view in enumerate(spoiled) if view is not None}
    named = right = alarms = others = 0
    for fold in range(_FOLDS):
        mixed = [faulty[i] if i % _FOLDS == fold and i in faulty else clean[i] for i in range(len(views))]
        others += sum(i % _FOLDS != fold or i not in faulty for i in range(len(views)))
        for kind, row in _named(manifest, mixed):
            is_faulty = row % _FOLDS == fold and row in faulty
            named += is_faulty
            alarms += not is_faulty
            right += is_faulty and (kind == "turned") == (name in TURNS) and (kind == "shifted") == ("shift" in name)
    print(f"{name:24s}{named:8d}{len(faulty):6d}  {right:14d}{alarms:8d} of {others}")
    return {"named": named, "as what it is": right, "of": len(faulty), "others named": alarms, "others": others}


def _measured(view: SampleView) -> Measured:
    record, fit = measure(view)
    return record, fit.surface if fit else None


def _shifted(view: SampleView, down: int, right: int) -> SampleView:
    """The mask moved; the pixels that come in are unknown."""
    _, height, width = view.layers.shape
    moved = np.full_like(view.layers, UNKNOWN if (view.layers == UNKNOWN).any() else 0)
    moved[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = view.layers[
        :, max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return replace(view, layers=moved)


def _findings(manifest: Manifest, measured: Sequence[Measured]) -> list[tuple[str, int, list[int]]]:
    surfaces = [surface for _, surface in measured if surface is not None]
    looked = {
        "": Looked(
            keys=[str(row) for row in range(len(measured))],
            records=np.array([record for record, _ in measured], MEASURES),
            surface=np.sum([np.zeros((2 * REACH + 1, 2 * REACH + 1)), *surfaces], axis=0),
            num_fits=len(surfaces),
            unreadable=[],
        )
    }
    found = mask_findings(SampleTable.of(looked, manifest.num_classes), looked, manifest.target_kind)
    return [
        (f.what if f.kind == "shifted_split" else f.kind, f.count, [int(e.places[0].key) for e in f.examples])
        for f in found
        if f.kind in _ALIGNMENT
    ]


def _kinds(manifest: Manifest, measured: Sequence[Measured]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count, _ in _findings(manifest, measured))


def _named(manifest: Manifest, measured: Sequence[Measured]) -> list[tuple[str, int]]:
    return [(kind, row) for kind, _, rows in _findings(manifest, measured) for row in rows]


def _cost(shards: str, split: str, members: Sequence[list[bytes]], turns: int) -> dict[str, float]:
    """Seconds per thousand images."""
    ratios, ours, peers = [], [], []
    for _ in range(turns):
        started = time.perf_counter()
        find_trouble(open_data(shards), split=split, workers=1)
        ours.append((time.perf_counter() - started) / len(members) * 1000)
        started = time.perf_counter()
        for image, target, *_ in members:
            np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
            np.asarray(Image.open(io.BytesIO(target)))
        peers.append((time.perf_counter() - started) / len(members) * 1000)
        ratios.append(ours[-1] / peers[-1])
    print(
        f"looking: {median(ours):.1f} s for 1000 images, a bare decode {median(peers):.1f} s: "
        f"{median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f})"
    )
    return {"ours_s": median(ours), "decode_s": median(peers), "ratio": median(ratios)}


if __name__ == "__main__":
    main()
