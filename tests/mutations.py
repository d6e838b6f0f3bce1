"""Raw samples with one thing wrong: damaged, cut off, swapped, of another size or another mode."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from tests.loader_cases import scene

HEIGHT, WIDTH = 40, 56


@dataclass(frozen=True)
class RawPair:
    """An image file and its mask file."""

    image: bytes
    mask: bytes
    image_suffix: str = "jpg"
    mask_suffix: str = "png"


Mutation = Callable[[np.random.Generator, RawPair, RawPair], RawPair]
"""(random numbers, the sample, another sample) to the sample with one thing wrong."""


def raw_pair(seed: int, height: int = HEIGHT, width: int = WIDTH) -> RawPair:
    """A whole sample; every third image is a PNG."""
    picture, mask = scene(seed, height, width)
    image = Image.fromarray(picture)
    if seed % 3 == 0:
        return RawPair(image=saved(image, "PNG"), mask=saved(Image.fromarray(mask), "PNG"), image_suffix="png")
    return RawPair(image=saved(image, "JPEG", quality=92), mask=saved(Image.fromarray(mask), "PNG"))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """With up to eight bits turned round."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def cut_off(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def holed(data: bytes, rng: np.random.Generator) -> bytes:
    """With a run of zeros, as a lost sector leaves it."""
    begin = int(rng.integers(0, len(data)))
    end = min(len(data), begin + int(rng.integers(1, 600)))
    return data[:begin] + bytes(end - begin) + data[end:]


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(len(data))


def longer(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 300)))


def _of_image(change: Callable[[bytes, np.random.Generator], bytes]) -> Mutation:
    return lambda rng, pair, other: replace(pair, image=change(pair.image, rng))


def _of_mask(change: Callable[[bytes, np.random.Generator], bytes]) -> Mutation:
    return lambda rng, pair, other: replace(pair, mask=change(pair.mask, rng))


def _resized(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    image = Image.open(io.BytesIO(data))
    size = (image.width + int(rng.integers(-3, 4)), image.height + int(rng.integers(1, 4)))
    return saved(image.resize(size, Image.Resampling.NEAREST), kind)


def _image_as(mode: str, kind: str, **options: object) -> Mutation:
    def change(rng: np.random.Generator, pair: RawPair, other: RawPair) -> RawPair:
        image = Image.open(io.BytesIO(pair.image)).convert("RGB")
        if mode == "I;16":
            converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            converted = image.convert(mode)
        if mode in ("RGBA", "LA"):
            alpha = rng.choice(np.array([255, 128], np.uint8))
            converted.putalpha(Image.fromarray(np.full((image.height, image.width), alpha)))
        return replace(pair, image=saved(converted, kind, **options), image_suffix=kind.lower())

    return change


def _mask_as(mode: str, kind: str = "PNG") -> Mutation:
    def change(rng: np.random.Generator, pair: RawPair, other: RawPair) -> RawPair:
        ids = np.asarray(Image.open(io.BytesIO(pair.mask)))
        match mode:
            case "I;16":
                mask = Image.fromarray(ids.astype(np.uint16) * int(rng.choice([1, 1000])))
            case "colors":
                mask = Image.fromarray(rng.integers(0, 256, (*ids.shape, 3), dtype=np.uint8))
            case "P":
                mask = Image.fromarray(ids)
                mask.putpalette(rng.bytes(768))
            case _:
                mask = Image.fromarray(ids).convert(mode)
        return replace(pair, mask=saved(mask, kind), mask_suffix=kind.lower())

    return change


def _turned_by_exif(rng: np.random.Generator, pair: RawPair, other: RawPair) -> RawPair:
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([2, 3, 4, 3, 6, 9]))
    image = Image.open(io.BytesIO(pair.image)).convert("RGB")
    return replace(pair, image=saved(image, "JPEG", quality=95, subsampling=0, exif=exif), image_suffix="jpg")


def _with_other_ids(rng: np.random.Generator, pair: RawPair, other: RawPair) -> RawPair:
    ids = np.asarray(Image.open(io.BytesIO(pair.mask))).copy()
    ids[rng.integers(0, ids.shape[0]), rng.integers(0, ids.shape[1])] = rng.integers(0, 256)
    return replace(pair, mask=saved(Image.fromarray(ids), "PNG"))


def _transposed_mask(rng: np.random.Generator, pair: RawPair, other: RawPair) -> RawPair:
    ids = np.asarray(Image.open(io.BytesIO(pair.mask)))
    return replace(pair, mask=saved(Image.fromarray(np.ascontiguousarray(ids.T)), "PNG"))


MUTATIONS: dict[str, Mutation] = {
    **{f"image_{change.__name__}": _of_image(change) for change in (flipped, cut_off, holed, noise, longer)},
    **{f"mask_{change.__name__}": _of_mask(change) for change in (flipped, cut_off, holed, noise, longer)},
    "image_resized": lambda rng, pair, other: replace(pair, image=_resized(pair.image, "PNG", rng), image_suffix="png"),
    "mask_resized": lambda rng, pair, other: replace(pair, mask=_resized(pair.mask, "PNG", rng)),
    "mask_of_another": lambda rng, pair, other: replace(pair, mask=other.mask),
    "image_for_mask": lambda rng, pair, other: replace(pair, mask=pair.image, mask_suffix=pair.image_suffix),
    "mask_for_image": lambda rng, pair, other: replace(pair, image=pair.mask, image_suffix="png"),
    "image_empty": lambda rng, pair, other: replace(pair, image=b""),
    "mask_empty": lambda rng, pair, other: replace(pair, mask=b""),
    "image_cmyk": _image_as("CMYK", "JPEG"),
    "image_alpha": _image_as("RGBA", "PNG"),
    "image_grey_alpha": _image_as("LA", "PNG"),
    "image_palette": _image_as("P", "PNG"),
    "image_bilevel": _image_as("1", "PNG"),
    "image_16_bits": _image_as("I;16", "PNG"),
    "image_tiff": _image_as("RGB", "TIFF"),
    "image_webp": _image_as("RGB", "WEBP", lossless=True),
    "image_turned": _turned_by_exif,
    "mask_jpeg": _mask_as("L", "JPEG"),
    "mask_16_bits": _mask_as("I;16"),
    "mask_colors": _mask_as("colors"),
    "mask_rgb": _mask_as("RGB"),
    "mask_palette": _mask_as("P"),
    "mask_alpha": _mask_as("LA"),
    "mask_bilevel": _mask_as("1"),
    "mask_other_ids": _with_other_ids,
    "mask_transposed": _transposed_mask,
}
