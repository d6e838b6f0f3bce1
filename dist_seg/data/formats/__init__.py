"""The raw formats that come with dist-seg.

Readers written for earlier versions import from here what `dist_seg.data.raw.source` describes, so it stays importable.
"""

from dist_seg.data.codecs.object_layers import RawObject
from dist_seg.data.raw.source import (
    AnySource,
    InstanceSource,
    RawInstances,
    RawSample,
    SampleRef,
    Source,
    StrayAnnotationsError,
)

__all__ = [
    "AnySource",
    "InstanceSource",
    "RawInstances",
    "RawObject",
    "RawSample",
    "SampleRef",
    "Source",
    "StrayAnnotationsError",
]
