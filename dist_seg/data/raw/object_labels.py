"""Multi-label data made from instances: the layer of a class is the union of its objects. Layers may overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dist_seg.data.codecs.class_ids import IGNORE_INDEX
from dist_seg.data.raw.source import InstanceSource, RawSample, SampleRef
from dist_seg.errors import DataError
from dist_seg.masks.palette import Rgb
from dist_seg.masks.rle import decode_mask


@dataclass(frozen=True, kw_only=True)
class ObjectLabels:
    """The objects of `instances` as layers. The pixels of a crowd belong to its class.

    A sample with an annotation that cannot be used is bad: without that object its layer would claim that nothing is
    there.
    """

    instances: InstanceSource
    task: ClassVar[Literal["multilabel"]] = "multilabel"
    ignore_index: ClassVar[int] = IGNORE_INDEX

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.instances.class_names

    @property
    def palette(self) -> tuple[Rgb, ...]:
        return self.instances.palette

    def samples(self) -> Sequence[SampleRef]:
        return self.instances.samples()

    def load(self, sample: SampleRef) -> RawSample:
        raw = self.instances.load(sample)
        if raw.problems:
            raise DataError("\n".join(raw.problems))
        layers = np.zeros((len(self.class_names), raw.height, raw.width), np.uint8)
        for raw_object in raw.objects:
            try:
                mask = decode_mask(raw_object.rle, raw.height, raw.width)
            except ValueError as error:
                raise DataError(f"{sample.where}: the mask of object {raw_object.id}: {error}") from error
            layers[raw_object.class_id][mask] = 1
        return RawSample(image=raw.image, mask=layers)
