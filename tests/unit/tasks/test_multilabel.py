"""The multi-label task: how it draws errors."""

import numpy as np
import torch
from PIL import Image

from dist_seg.config.schema import Config
from dist_seg.data.loading.batch import Batch
from dist_seg.tasks.classes import ClassInfo
from dist_seg.tasks.multilabel import MultiLabelTask

CLASSES = ClassInfo(names=("a", "b"), palette=((255, 0, 0), (0, 255, 0)), ignore_index=255)


def test_a_pixel_is_wrong_where_any_known_label_is_and_ignored_where_none_is_known() -> None:
    truth = torch.tensor([[[1, 1, 255, 255]], [[0, 1, 0, 255]]], dtype=torch.uint8)  # (label, row, column)
    prediction = torch.tensor([[[True, True, True, True]], [[False, False, False, True]]])
    batch = Batch(images=torch.zeros(1, 3, 1, 4), targets=truth[None], keys=("x",))
    drawing = MultiLabelTask(Config(task="multilabel"), CLASSES).draw(
        np.zeros((1, 4, 3), np.uint8), prediction[None], batch
    )
    assert drawing.errors.wrong.tolist() == [[False, True, False, False]]
    assert drawing.errors.ignored.tolist() == [[False, False, False, True]]
    assert isinstance(drawing.truth, Image.Image) and isinstance(drawing.prediction, Image.Image)
