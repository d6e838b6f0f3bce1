from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.codecs.class_ids import ClassIds, decode_class_ids
from dist_seg.data.codecs.decode import decode_image
from dist_seg.data.codecs.encoded import EncodedSample, TargetClasses
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.targets import why_undecodable
from tests.loader_cases import NUM_CLASSES, encode, scene


def test_a_png_comes_as_it_was() -> None:
    picture, mask = scene(0, 20, 30)
    assert np.array_equal(decode_image(encode(picture, "PNG")), picture)
    assert np.array_equal(decode_class_ids(encode(mask, "PNG")), mask)


def test_grey_becomes_three_equal_channels() -> None:
    grey = scene(0, 20, 30)[0][..., 0]
    assert np.array_equal(decode_image(encode(grey, "PNG")), grey[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_off_picture_is_undecodable(kind: str) -> None:
    data = encode(scene(0, 40, 60)[0], kind)
    with pytest.raises(UndecodableError):
        decode_image(data[: len(data) // 2])


def test_a_palette_is_no_mask() -> None:
    with pytest.raises(UndecodableError, match="8-bit grey, this one is RGB"):
        decode_class_ids(encode(np.array(Image.new("RGB", (3, 2))), "PNG"))


def test_the_part_that_is_undecodable_is_named() -> None:
    picture, mask = (encode(array, "PNG") for array in scene(0, 20, 30))
    kind = ClassIds(classes=TargetClasses.as_packed(NUM_CLASSES, 255))
    sample = EncodedSample(key="k", image=picture, target=mask, height=20, width=30, kind=kind)
    assert why_undecodable(sample) is None
    broken = replace(sample, target=mask[:60])
    assert (why_undecodable(broken) or "").startswith("mask: ")


def test_pil_s_own_limit_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    picture, mask = scene(0, 20, 30)
    assert np.array_equal(decode_image(encode(picture, "PNG")), picture)
    assert decode_image(encode(picture, "JPEG")).shape == (20, 30, 3)
    assert np.array_equal(decode_class_ids(encode(mask, "PNG")), mask)
