import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_seg.config.schema import AugmentConfig
from dist_seg.data.loading.augment import SampleTransform, color_matrix, digest, draw, eval_transform
from dist_seg.runtime.rng import generator

STILL = AugmentConfig(scale_min=1.0, scale_max=1.0, flip_probability=0.0)
sizes = st.integers(1, 700)


def _draw(
    cfg: AugmentConfig, height: int, width: int, crop: tuple[int, int] | None, seed: int = 0, input_scale: float = 1.0
) -> SampleTransform:
    rng = generator("augment", seed)
    return draw(cfg, input_scale=input_scale, height=height, width=width, crop=crop, rng=rng)


def _apply(affine: tuple[float, ...], x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = affine
    return a * x + b * y + c, d * x + e * y + f


class TestDraw:
    def test_the_same_generator_draws_the_same(self) -> None:
        cfg = AugmentConfig(brightness=0.3, rotate_deg=10, blur_sigma_max=1)
        assert _draw(cfg, 300, 400, (100, 100), seed=5) == _draw(cfg, 300, 400, (100, 100), seed=5)
        assert _draw(cfg, 300, 400, (100, 100), seed=5) != _draw(cfg, 300, 400, (100, 100), seed=6)

    def test_a_setting_that_is_switched_on_moves_no_other_number(self) -> None:
        plain = _draw(AugmentConfig(), 300, 400, (100, 100))
        more = _draw(AugmentConfig(brightness=0.3, hue_deg=5, blur_sigma_max=2), 300, 400, (100, 100))
        assert more.color is not None
        assert dataclasses.replace(more, color=None, blur_sigma=0.0) == plain

    def test_nothing_to_draw_is_the_identity(self) -> None:
        identity = SampleTransform(roi=(0, 0, 30, 40), resized=(30, 40), canvas=(30, 40))
        assert _draw(STILL, 30, 40, (30, 40)) == identity == eval_transform(input_scale=1.0, height=30, width=40)

    @given(height=sizes, width=sizes, crop=st.tuples(sizes, sizes), seed=st.integers(0, 10**6))
    def test_the_region_lies_inside_and_its_place_on_the_canvas(
        self, height: int, width: int, crop: tuple[int, int], seed: int
    ) -> None:
        t = _draw(AugmentConfig(scale_min=0.2, scale_max=3.0), height, width, crop, seed)
        y, x, h, w = t.roi
        assert t.canvas == crop
        assert 0 <= y < y + h <= height and 0 <= x < x + w <= width
        for axis in range(2):
            assert t.resized[axis] >= 1
            assert 0 <= t.offset[axis] <= t.offset[axis] + t.resized[axis] <= crop[axis]

    @given(crop=st.tuples(st.integers(1, 60), st.integers(1, 60)), seed=st.integers(0, 10**6))
    def test_a_crop_that_fits_is_not_padded(self, crop: tuple[int, int], seed: int) -> None:
        t = _draw(AugmentConfig(scale_min=1.0, scale_max=2.0), 60, 60, crop, seed)
        assert t.resized == crop and t.offset == (0, 0)

    @given(seed=st.integers(0, 10**6), factor=st.floats(0.3, 3.0))
    def test_the_region_has_the_drawn_scale(self, seed: int, factor: float) -> None:
        t = _draw(dataclasses.replace(STILL, scale_min=factor, scale_max=factor), 500, 600, (64, 64), seed)
        assert abs(t.roi[2] - 64 / factor) <= 1.5 and abs(t.roi[3] - 64 / factor) <= 1.5

    def test_every_place_of_the_crop_is_reached(self) -> None:
        places = {_draw(STILL, 6, 9, (4, 9), seed).roi[0] for seed in range(100)}
        assert places == {0, 1, 2}

    def test_every_place_of_the_padding_is_reached(self) -> None:
        places = {_draw(STILL, 4, 9, (6, 9), seed).offset[0] for seed in range(100)}
        assert places == {0, 1, 2}

    def test_scales_are_log_uniform(self) -> None:
        cfg = dataclasses.replace(STILL, scale_min=0.5, scale_max=2.0)
        widths = [_draw(cfg, 1000, 1000, None, seed).resized[1] for seed in range(600)]
        assert 0.42 < np.mean(np.array(widths) < 1000) < 0.58

    @pytest.mark.parametrize("probability", [0.0, 1.0])
    def test_flips_come_as_often_as_asked(self, probability: float) -> None:
        cfg = dataclasses.replace(STILL, flip_probability=probability)
        assert {_draw(cfg, 30, 40, (30, 40), seed).flip for seed in range(20)} == {probability == 1.0}

    def test_input_scale_multiplies(self) -> None:
        assert _draw(STILL, 100, 200, None, input_scale=0.5).resized == (50, 100)
        assert eval_transform(input_scale=0.5, height=101, width=200).resized == (50, 100)

    def test_without_rotation_in_the_recipe_there_is_no_warp(self) -> None:
        assert all(_draw(AugmentConfig(), 300, 400, (100, 100), seed).warp is None for seed in range(20))


class TestRotation:
    CFG = AugmentConfig(rotate_deg=30.0, scale_min=0.4, scale_max=2.5)

    def test_no_angle_is_the_crop(self) -> None:
        cfg = dataclasses.replace(STILL, rotate_deg=30.0, rotate_probability=0.0)
        warped, cropped = _draw(cfg, 300, 400, (64, 96), 3), _draw(STILL, 300, 400, (64, 96), 3)
        assert warped.warp is not None
        x, y = _apply(warped.warp, 0, 0)
        assert (y + warped.roi[0], x + warped.roi[1]) == pytest.approx(cropped.roi[:2])
        assert (warped.warp[0], warped.warp[1], warped.warp[3], warped.warp[4]) == pytest.approx((1, 0, 0, 1))

    def test_the_middle_stays_and_distances_are_kept(self) -> None:
        cfg = dataclasses.replace(STILL, rotate_deg=30.0)
        turned, cropped = _draw(cfg, 300, 400, (64, 96), 3), _draw(STILL, 300, 400, (64, 96), 3)
        assert turned.warp is not None
        x, y = _apply(turned.warp, 48, 32)
        assert (y + turned.roi[0], x + turned.roi[1]) == pytest.approx((cropped.roi[0] + 32, cropped.roi[1] + 48))
        far_x, far_y = _apply(turned.warp, 48 + 10, 32)
        assert math.hypot(far_x - x, far_y - y) == pytest.approx(10)

    def test_the_mirror_is_in_the_warp(self) -> None:
        cfg = dataclasses.replace(STILL, rotate_deg=30.0, rotate_probability=0.0)
        plain = _draw(cfg, 300, 400, (64, 96), 3)
        mirrored = _draw(dataclasses.replace(cfg, flip_probability=1.0), 300, 400, (64, 96), 3)
        assert plain.warp is not None and mirrored.warp is not None
        assert _apply(mirrored.warp, 96, 5) == pytest.approx(_apply(plain.warp, 0, 5))

    @given(height=sizes, width=sizes, crop=st.tuples(sizes, sizes), seed=st.integers(0, 10**6))
    def test_the_region_holds_all_that_the_warp_reads(
        self, height: int, width: int, crop: tuple[int, int], seed: int
    ) -> None:
        t = _draw(self.CFG, height, width, crop, seed)
        y0, x0, h, w = t.roi
        assert t.warp is not None
        assert 0 <= y0 < y0 + h <= height and 0 <= x0 < x0 + w <= width
        for px in (0.5, crop[1] / 2, crop[1] - 0.5):
            for py in (0.5, crop[0] / 2, crop[0] - 0.5):
                x, y = _apply(t.warp, px, py)
                if 0 <= x + x0 <= width and 0 <= y + y0 <= height:
                    assert -0.001 <= x <= w + 0.001 and -0.001 <= y <= h + 0.001

    @given(seed=st.integers(0, 10**4))
    def test_only_shrinking_is_done_by_a_resize(self, seed: int) -> None:
        t = _draw(self.CFG, 300, 400, (128, 128), seed)
        assert t.resized[0] <= t.roi[2] and t.resized[1] <= t.roi[3]
        assert t.image_warp[4] <= max(1.0, t.warp[4] if t.warp else 1.0) + 0.05


class TestColor:
    def test_nothing_is_the_identity(self) -> None:
        matrix = color_matrix(brightness=1, contrast=1, saturation=1, hue_deg=0)
        assert np.array_equal(matrix, np.eye(3, 4))

    def test_brightness_multiplies(self) -> None:
        matrix = color_matrix(brightness=1.5, contrast=1, saturation=1, hue_deg=0)
        assert np.allclose(matrix, 1.5 * np.eye(3, 4))

    def test_contrast_keeps_mid_grey(self) -> None:
        matrix = color_matrix(brightness=1, contrast=0.3, saturation=1, hue_deg=0)
        assert np.allclose(matrix @ [127.5, 127.5, 127.5, 1], 127.5)
        assert np.allclose(matrix @ [0, 0, 0, 1], 127.5 * 0.7)

    def test_no_saturation_is_grey(self) -> None:
        matrix = color_matrix(brightness=1, contrast=1, saturation=0, hue_deg=0)
        assert np.allclose(matrix @ [10, 100, 200, 1], 0.299 * 10 + 0.587 * 100 + 0.114 * 200)

    @pytest.mark.parametrize("hue_deg", [-170.0, 15.0, 90.0])
    def test_hue_keeps_grey_and_comes_back(self, hue_deg: float) -> None:
        there = color_matrix(brightness=1, contrast=1, saturation=1, hue_deg=hue_deg)
        back = color_matrix(brightness=1, contrast=1, saturation=1, hue_deg=-hue_deg)
        # The published YIQ matrix has three digits, so grey stays to about a thousandth.
        assert np.allclose(there @ [90, 90, 90, 1], 90, atol=0.3)
        assert np.allclose(back[:, :3] @ there[:, :3], np.eye(3), atol=1e-9)

    def test_probability_leaves_colours_alone(self) -> None:
        cfg = dataclasses.replace(STILL, brightness=0.5, color_probability=0.3)
        share = np.mean([_draw(cfg, 9, 9, None, seed).color is not None for seed in range(400)])
        assert 0.2 < share < 0.4


class TestDigest:
    BASE = SampleTransform(roi=(1, 2, 3, 4), resized=(5, 6), canvas=(7, 8))

    def test_it_has_63_bits(self) -> None:
        assert 0 <= digest(["a"], [self.BASE]) < 2**63

    @pytest.mark.parametrize(
        "change",
        [
            {"roi": (1, 2, 3, 5)},
            {"resized": (5, 7)},
            {"canvas": (7, 9)},
            {"offset": (0, 1)},
            {"flip": True},
            {"warp": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)},
            {"color": (1.0,) * 12},
            {"blur_sigma": 0.5},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_every_drawn_number_counts(self, change: dict[str, object]) -> None:
        assert digest(["a"], [dataclasses.replace(self.BASE, **change)]) != digest(["a"], [self.BASE])

    def test_keys_and_their_order_count(self) -> None:
        pair = [self.BASE, self.BASE]
        assert len({digest(keys, pair) for keys in (["a", "b"], ["b", "a"], ["ab", ""])}) == 3
