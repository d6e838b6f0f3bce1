import pytest

from dist_seg.config.load import load_config
from dist_seg.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mask_rcnn.anchor_sizes=[8, 16]", "mask_rcnn.anchor_sizes=[8.0, 16.0]: must be 5 positive numbers"),
        ("mask_rcnn.anchor_ratios=[]", "mask_rcnn.anchor_ratios=[]: must be one or more positive numbers"),
        ("mask_rcnn.fpn_channels=0", "mask_rcnn.fpn_channels=0: must be at least 1"),
        ("mask_rcnn.roi_positive_fraction=1.5", "mask_rcnn.roi_positive_fraction=1.5: must lie in [0, 1]"),
        ("mask_rcnn.mask_threshold=1", "mask_rcnn.mask_threshold=1.0: must lie in (0, 1)"),
        ("mask_rcnn.rpn_negative_iou=0.8", "must not be more than mask_rcnn.rpn_positive_iou=0.7"),
        ("mask_rcnn.head_norm=batch", "expected Literal['none', 'group']"),
    ],
)
def test_mistake_is_named_with_key_and_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([], [override])
    assert message in str(caught.value)


def test_anchor_sizes_may_be_whole_numbers_or_fractions() -> None:
    config = load_config([], ["mask_rcnn.anchor_sizes=[8, 16, 32.5, 64, 128]"])
    assert config.mask_rcnn.anchor_sizes == (8, 16, 32.5, 64, 128)
