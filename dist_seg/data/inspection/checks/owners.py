"""Finds the image that a misfitting mask belongs to: exchanged masks are both among the suspects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_seg.data.inspection.findings import Finding, Place
from dist_seg.data.inspection.samples.alignment import (
    Outlines,
    edges_of,
    fit_of,
    measure_fit,
    outlines_of,
    shrinkage,
    shrunk_layers,
)
from dist_seg.data.inspection.samples.decoded import read_members, view_sample
from dist_seg.data.shards.opened import OpenedData

_MOST_SUSPECTS = 48
"""Suspects to compare. They are decoded again, held in memory, and compared pair by pair."""
_FIT = 4.0
"""Robust standard deviations: masks on their own images usually reach this fit."""


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    """A sample at the size that is looked at."""

    image: NDArray[np.uint8]
    layers: NDArray[np.int16]
    edges: Outlines
    outlines: Outlines


def with_owners(data: OpenedData, finding: Finding) -> Finding:
    """The finding about misfitting masks, with remarks that name another suspect whose mask would fit an image."""
    some = finding.examples[:_MOST_SUSPECTS]
    suspects = [_suspect(data, example.places[0]) for example in some]
    named = list(finding.examples)
    for number, suspect in enumerate(suspects):
        other = _best_other(suspects, number)
        if other is None:
            continue
        fit = measure_fit(suspect.image, suspects[other].layers)
        if fit and fit.fit >= _FIT:
            key = some[other].places[0].key
            named[number] = replace(
                some[number], what=f"{some[number].what}; the mask of {key} would fit, {fit.fit:.1f}"
            )
    return replace(finding, examples=tuple(named))


def _suspect(data: OpenedData, place: Place) -> _Suspect:
    shard = data.manifest.split(place.split).shards[place.shard]
    sidecar = data.sidecar(shard)
    height, width = sidecar.height(place.index), sidecar.width(place.index)
    view = view_sample(
        read_members(data.storage, shard, sidecar, place.index), data.manifest, height, width, data.max_pixels
    )
    factor = shrinkage(height, width)
    size = (round(height / factor), round(width / factor))
    image, layers = view.image, view.layers
    if size != (height, width):
        image = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BOX))
        layers = shrunk_layers(layers, size)
    return _Suspect(image=image, layers=layers, edges=edges_of(image, size), outlines=outlines_of(layers))


def _best_other(suspects: Sequence[_Suspect], number: int) -> int | None:
    """The other suspect whose mask has the same size and fits the image best."""
    own = suspects[number]
    fits = {
        other: fit_of(own.edges, suspect.outlines)
        for other, suspect in enumerate(suspects)
        if other != number and suspect.layers.shape[1:] == own.layers.shape[1:]
    }
    return max(fits, key=lambda other: fits[other]) if fits else None
