import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dist_seg.data.codecs.class_ids import check_class_id_png
from dist_seg.data.codecs.headers import UndecodableError, check_picture, read_header
from tests.loader_cases import encode, scene, scene_sample
from tests.picture_bombs import with_expanding_text

FORMS = ("jpeg420", "jpeg444", "progressive", "grey_jpeg", "png", "grey_png")


@pytest.mark.parametrize("form", FORMS)
def test_size_kind_and_depth_are_read(form: str) -> None:
    header = read_header(scene_sample(0, form=form, height=33, width=71).image)
    assert (header.height, header.width, header.bits) == (33, 71, 8)
    assert header.kind == ("PNG" if form.endswith("png") else "JPEG")
    assert header.is_plain_grey == form.startswith("grey")


@given(form=st.sampled_from(FORMS), share=st.floats(0, 1, exclude_max=True))
def test_what_is_cut_off_anywhere_is_refused(form: str, share: float) -> None:
    data = scene_sample(1, form=form, height=32, width=40).image
    with pytest.raises(UndecodableError):
        read_header(data[: int(share * len(data))])


def test_a_whole_thumbnail_does_not_make_a_cut_off_jpeg_whole() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 10  # any text: the thumbnail is put behind it
    buffer = io.BytesIO()
    thumbnail = encode(scene(0, 16, 16)[0], "JPEG")
    Image.fromarray(scene(0, 64, 64)[0]).save(buffer, "JPEG", exif=exif.tobytes() + thumbnail)
    data = buffer.getvalue()
    assert read_header(data).width == 64
    with pytest.raises(UndecodableError, match="cut off"):
        read_header(data[:-100])


def test_bytes_after_the_end_do_no_harm() -> None:
    assert read_header(scene_sample(0).image + b"\0" * 5000).height == 120


def test_a_marker_among_the_pixels_is_refused() -> None:
    """libjpeg stops at such a marker; DALI's decoder skips it and shows other pixels from there on."""
    data = bytearray(scene_sample(0, form="jpeg444").image)
    place = data.index(b"\xff\x00", data.index(b"\xff\xda"))
    data[place + 1] = 0x20
    with pytest.raises(UndecodableError, match=f"damaged pixels at byte {place}"):
        read_header(bytes(data))


@pytest.mark.parametrize("options", [{"restart_marker_blocks": 2}, {"progressive": True}, {"comment": b"\xff\x21" * 9}])
def test_restarts_several_scans_and_comments_are_no_damage(options: dict[str, object]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene(0, 64, 64)[0]).save(buffer, "JPEG", **options)
    assert read_header(buffer.getvalue()).width == 64


def test_an_image_of_more_than_8_bits_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(buffer, "PNG")
    with pytest.raises(UndecodableError, match="image: 16 bits a channel"):
        check_picture(buffer.getvalue(), 20, 30)


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    data = bytearray(scene_sample(0, form="png").image)
    data[len(data) // 2] ^= 4
    with pytest.raises(UndecodableError, match="damaged IDAT"):
        read_header(bytes(data))


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
def test_a_chunk_that_expands_beyond_measure_is_refused(chunk: str) -> None:
    png = scene_sample(0, form="png").image
    assert read_header(with_expanding_text(png, chunk, 1 << 20)).height == 120
    with pytest.raises(UndecodableError, match=f"{chunk} chunk expands to more than 1048576 bytes"):
        read_header(with_expanding_text(png, chunk, 2 << 20))


@given(data=st.binary(max_size=200))
def test_garbage_is_refused_without_another_error(data: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(UndecodableError):
            read_header(start + data)


@pytest.mark.parametrize(
    ("mode", "what"), [("P", "8-bit PNG"), ("RGB", "8-bit PNG"), ("I;16", "16-bit PNG"), ("1", "1-bit PNG")]
)
def test_a_mask_that_is_not_8_bit_grey_is_refused(mode: str, what: str) -> None:
    buffer = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.zeros((20, 30), np.uint16)).save(buffer, "PNG")
    else:
        Image.new("L", (30, 20)).convert(mode).save(buffer, "PNG")
    with pytest.raises(UndecodableError, match=f"must be an 8-bit grey PNG of class ids, is a {what}"):
        check_class_id_png(buffer.getvalue(), 20, 30)
