#!/usr/bin/env python3
"""Runs one rank of `dist-seg train`, for launchers that start a script in every process:

    deepspeed --num_gpus 4 launch/train.py configs/coco_mask_rcnn.yaml engine.name=deepspeed
    deepspeed --hostfile hosts launch/train.py configs/coco_mask_rcnn.yaml engine.name=deepspeed
    torchrun --nproc-per-node 4 launch/train.py configs/coco_mask_rcnn.yaml

The arguments are those of `dist-seg train`. The run folder's `outcome.json` also records how the run ended.
"""

import os
import sys

from dist_seg.cli.main import main


def rank_arguments(arguments: list[str]) -> list[str]:
    """The arguments without `--local_rank=N`, which DeepSpeed's launcher adds besides setting LOCAL_RANK."""
    return [text for text in arguments if not text.startswith(("--local_rank=", "--local-rank="))]


if __name__ == "__main__":
    if "LOCAL_SIZE" in os.environ:  # DeepSpeed's name for what torchrun calls LOCAL_WORLD_SIZE.
        os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["LOCAL_SIZE"])
    sys.exit(main(["train", *rank_arguments(sys.argv[1:])]))
