#!/usr/bin/env python3
"""One rank of `dist-seg train`, for launchers that start a script in every process:

    deepspeed --num_gpus 4 launch/train.py configs/coco_mask_rcnn.yaml engine.name=deepspeed
    deepspeed --hostfile hosts launch/train.py configs/coco_mask_rcnn.yaml engine.name=deepspeed
    torchrun --nproc-per-node 4 launch/train.py configs/coco_mask_rcnn.yaml

Arguments are those of `dist-seg train`. How the run ended stands in `outcome.json` of the run folder, too.
"""

import os
import sys

from dist_seg.cli.main import main


def rank_arguments(arguments: list[str]) -> list[str]:
    """Without `--local_rank=N`, which DeepSpeed's launcher adds; it sets LOCAL_RANK as well."""
    return [text for text in arguments if not text.startswith(("--local_rank=", "--local-rank="))]


if __name__ == "__main__":
    if "LOCAL_SIZE" in os.environ:  # DeepSpeed's name for what torchrun calls LOCAL_WORLD_SIZE.
        os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["LOCAL_SIZE"])
    sys.exit(main(["train", *rank_arguments(sys.argv[1:])]))
