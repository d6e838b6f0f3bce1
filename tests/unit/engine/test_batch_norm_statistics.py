import pytest
import torch
from torch import nn

from dist_seg.engine.batch_norm_statistics import RunningStatistics


def two_micro_batches() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(4, 3, 5, 5) * 2 + 1, torch.randn(4, 3, 5, 5) - 3]


def test_running_statistics_move_once_by_the_mean_of_the_moments() -> None:
    norm = nn.BatchNorm2d(3)
    statistics = RunningStatistics(norm, momentum=0.25)
    statistics.begin_step()
    batches = two_micro_batches()
    for batch in batches:
        norm(batch)
        statistics.collect()
    statistics.end_step(lanes=2, skipped=False)
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variance = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, 0.25 * mean)
    torch.testing.assert_close(norm.running_var, 0.75 + 0.25 * variance)
    assert int(norm.num_batches_tracked) == 1


def test_one_micro_batch_moves_them_as_torch_does() -> None:
    ours, reference = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    statistics = RunningStatistics(ours, momentum=0.1)
    for batch in two_micro_batches():
        statistics.begin_step()
        ours(batch)
        statistics.collect()
        statistics.end_step(lanes=1, skipped=False)
        reference(batch)
    torch.testing.assert_close(ours.running_mean, reference.running_mean)
    torch.testing.assert_close(ours.running_var, reference.running_var)
    assert int(ours.num_batches_tracked) == 2


def test_skipped_step_leaves_them_untouched() -> None:
    norm = nn.BatchNorm2d(3)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    statistics = RunningStatistics(norm, momentum=0.1)
    statistics.begin_step()
    norm(two_micro_batches()[0] * float("nan"))
    statistics.collect()
    statistics.end_step(lanes=1, skipped=True)
    for name, buffer in norm.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_frozen_layers_are_left_alone() -> None:
    norm = nn.BatchNorm2d(3).eval()
    statistics = RunningStatistics(norm, momentum=0.1)
    statistics.begin_step()
    norm(two_micro_batches()[0])
    statistics.collect()
    statistics.end_step(lanes=1, skipped=False)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.momentum == pytest.approx(0.1)
