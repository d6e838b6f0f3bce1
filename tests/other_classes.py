"""Data sets whose classes were changed before packing: what changing them while loading is held to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawInstances, RawSample, SampleRef
from dist_seg.data.shards.manifest import Manifest
from dist_seg.masks.palette import Rgb

SCENES = SyntheticSource(num_train=24, num_val=8, height=96, width=128)
"""What the fixtures `synthetic_shards` and `instance_shards` are packed from."""


@dataclass(frozen=True, kw_only=True)
class OtherClasses:
    """The synthetic images with other classes. targets: the new id of every old one, None to ignore it."""

    scenes: SyntheticSource
    class_names: Sequence[str]
    palette: Sequence[Rgb]
    targets: Sequence[int | None]
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        return self.scenes.samples()

    def load(self, sample: SampleRef) -> RawSample:
        raw = self.scenes.load(sample)
        table = np.array([IGNORE_INDEX if target is None else target for target in self.targets], np.uint8)
        return replace(raw, mask=table[raw.mask])


@dataclass(frozen=True, kw_only=True)
class OtherObjectClasses:
    """The synthetic instances with other classes, none of them ignored."""

    scenes: SyntheticInstances
    class_names: Sequence[str]
    palette: Sequence[Rgb]
    category_ids: Sequence[int]
    targets: Sequence[int]
    task: ClassVar[Literal["instance"]] = "instance"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def samples(self) -> Sequence[SampleRef]:
        return self.scenes.samples()

    def load(self, sample: SampleRef) -> RawInstances:
        raw = self.scenes.load(sample)
        return replace(raw, objects=tuple(replace(o, class_id=self.targets[o.class_id]) for o in raw.objects))


def targets_of(old_names: Sequence[str], class_map: Mapping[str, str | None], names: Sequence[str]) -> list[int | None]:
    """The ids in `names` of the old names' new ones."""
    new = [class_map.get(name, name) for name in old_names]
    return [None if name is None else list(names).index(name) for name in new]


def pack_other(out: Path, names: Sequence[str], class_map: Mapping[str, str | None]) -> Manifest:
    """The synthetic data with the classes `names`, packed as the fixture `synthetic_shards` is."""
    targets = targets_of(SCENES.class_names, class_map, names)
    palette = tuple(SCENES.palette[targets.index(number)] for number in range(len(names)))
    source = OtherClasses(scenes=SCENES, class_names=tuple(names), palette=palette, targets=targets)
    return pack(source, out, PackOptions(shard_bytes=100_000)).manifest


def pack_other_objects(out: Path, names: Sequence[str], class_map: Mapping[str, str | None]) -> Manifest:
    """The synthetic instances, as the fixture `instance_shards` is."""
    scenes = SyntheticInstances(scenes=SCENES)
    targets = [target for target in targets_of(scenes.class_names, class_map, names) if target is not None]
    firsts = [targets.index(number) for number in range(len(names))]
    source = OtherObjectClasses(
        scenes=scenes,
        class_names=tuple(names),
        palette=tuple(scenes.palette[first] for first in firsts),
        category_ids=tuple(scenes.category_ids[first] for first in firsts),
        targets=targets,
    )
    return pack(source, out, PackOptions(shard_bytes=100_000)).manifest
