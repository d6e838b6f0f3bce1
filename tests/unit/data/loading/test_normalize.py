import numpy as np
import pytest
import torch

from dist_seg.config.schema import DataConfig
from dist_seg.data.loading.augment import SampleTransform, color_matrix
from dist_seg.data.loading.normalize import as_pictures, normalization, normalize

PLAIN = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(2, 3))


def _flat(*rgb: int) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 3)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("unit", (0.0, 0.2, 1.0)),
        ("symmetric", (-1.0, -0.6, 1.0)),
        ("mean_std", ((0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225)),
    ],
)
def test_pixels_become_what_the_choice_says(choice: str, expected: tuple[float, ...]) -> None:
    assert choice in ("unit", "symmetric", "mean_std")
    images = normalize([_flat(0, 51, 255)], [PLAIN], normalization(DataConfig(normalize=choice)))
    assert images.dtype == torch.float32
    assert images[0, :, 1, 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_padding_becomes_about_zero() -> None:
    norm = normalization(DataConfig())
    assert normalize([_flat(*norm.padding)], [PLAIN], norm).abs().max() < 0.01


def test_colour_comes_before_normalisation() -> None:
    matrix = color_matrix(brightness=1.2, contrast=0.8, saturation=1.3, hue_deg=20)
    t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(2, 3), color=tuple(matrix.reshape(-1).tolist()))
    images = normalize([_flat(10, 100, 200)], [t], normalization(DataConfig(normalize="unit")))
    expected = (matrix[:, :3] @ np.array([10, 100, 200]) + matrix[:, 3]) / 255
    assert images[0, :, 0, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_every_sample_has_its_own_colour() -> None:
    dark = color_matrix(brightness=0.5, contrast=1, saturation=1, hue_deg=0)
    t = SampleTransform(roi=(0, 0, 2, 3), resized=(2, 3), canvas=(2, 3), color=tuple(dark.reshape(-1).tolist()))
    images = normalize([_flat(100, 100, 100)] * 2, [PLAIN, t], normalization(DataConfig(normalize="unit")))
    assert images[1].mean().item() == pytest.approx(images[0].mean().item() / 2)


def test_bits_do_not_depend_on_threads_or_neighbours() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (4, 3, 151, 203), dtype=np.uint8))
    colors = [tuple((np.eye(3, 4) + rng.normal(0, 0.1, (3, 4))).reshape(-1).tolist()) for _ in range(4)]
    transforms = [
        SampleTransform(roi=(0, 0, 151, 203), resized=(151, 203), canvas=(151, 203), color=color) for color in colors
    ]
    norm, before = normalization(DataConfig()), torch.get_num_threads()
    together = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            together.append(normalize(pixels, transforms, norm))
    finally:
        torch.set_num_threads(before)
    alone = torch.cat([normalize(pixels[i : i + 1], transforms[i : i + 1], norm) for i in range(4)])
    assert all(torch.equal(alone, images) for images in together)


def test_normalised_images_become_pictures_again() -> None:
    norm = normalization(DataConfig())
    (picture,) = as_pictures(normalize([_flat(10, 100, 200)], [PLAIN], norm), norm)
    assert picture[0, 0].tolist() == [10, 100, 200]


@pytest.mark.parametrize(("channels", "expected"), [((0, 1, 2, 3), [0, 51, 255]), ((2,), [255, 255, 255])])
def test_of_arrays_pictures_show_the_scaled_values(channels: tuple[int, ...], expected: list[int]) -> None:
    count = len(channels)
    data = DataConfig(
        image_dtype="uint16",
        image_channels=4,
        channels=channels,
        value_low=1000.0,
        value_high=2000.0,
        mean=(0.3,) * count,
        std=(0.2,) * count,
    )
    norm, values = normalization(data), torch.tensor([1000.0, 1200.0, 2500.0, 0.0]).view(4, 1, 1).expand(4, 2, 3)
    (picture,) = as_pictures(normalize([values[list(channels)]], [PLAIN], norm), norm)
    assert picture[1, 2].tolist() == expected
