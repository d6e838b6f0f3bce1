"""What a sample's target is, whichever kind it is of: class ids, layers of labels, or layers of object ids."""

import numpy as np
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import check_class_ids, decode_mask
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.encoded import EncodedSample
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import decode_labels
from dist_seg.data.codecs.npy import Values, decode_npy
from dist_seg.data.codecs.object_layers import check_object_ids, decode_instances

TASKS = ("semantic", "multilabel", "instance")


def decode_sample(encoded: EncodedSample) -> Values:
    """A sample's image: (H, W, 3) uint8 RGB, or an array (H, W, C). Raises `UndecodableError`."""
    if encoded.array is None:
        return decode_image(encoded.image)
    return decode_npy(encoded.image, encoded.array, encoded.height, encoded.width)


def decode_target(encoded: EncodedSample) -> NDArray[np.uint8] | NDArray[np.int16]:
    """Class ids (H, W) uint8, of multi-label data layers (K, H, W) uint8, or of a sample with annotations object ids
    (L, H, W) int16.

    Raises `UndecodableError`, also for an object id without an annotation.
    """
    if encoded.num_labels:
        return decode_labels(encoded.target, encoded.num_labels)
    if encoded.annotations is None:
        return decode_mask(encoded.target)
    ids = decode_instances(encoded.target, encoded.height)
    check_object_ids(ids, len(encoded.annotations.objects))
    return ids


def why_undecodable(encoded: EncodedSample) -> str | None:
    """None where the sample can be decoded."""
    role = "image"
    try:
        decode_sample(encoded)
        role = "mask"
        target = decode_target(encoded)
        if target.dtype == np.uint8:
            check_class_ids(target.view(np.uint8), encoded)
    except UndecodableError as error:
        return f"{role}: {error}"
    return None
