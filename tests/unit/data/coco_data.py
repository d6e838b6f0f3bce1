"""Tiny COCO data sets that tests write."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .raw_data import picture

HEIGHT, WIDTH = 20, 30

Entry = dict[str, object]


def square(left: float = 2, top: float = 3, side: float = 5) -> list[float]:
    """A polygon of `side` squared pixels."""
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def image_entry(number: object, file_name: str | None = None, **changes: object) -> Entry:
    return {"id": number, "file_name": file_name or f"{number}.jpg", "height": HEIGHT, "width": WIDTH, **changes}


def annotation(number: object, image: object = 1, **changes: object) -> Entry:
    """A square of 25 pixels of category 7."""
    entry: Entry = {
        "id": number,
        "image_id": image,
        "category_id": 7,
        "segmentation": [square()],
        "bbox": [2, 3, 5, 5],
        "area": 25.0,
        "iscrowd": 0,
    }
    return {**entry, **changes}


def write_coco(
    root: Path,
    annotations: Sequence[object],
    *,
    images: Sequence[Entry] = (),
    part: str = "train2017",
    categories: Sequence[object] = ({"id": 7, "name": "cell"}, {"id": 90, "name": "nucleus"}),
) -> Path:
    """`root/annotations/instances_PART.json`, whose path it gives back, with pictures in `root/PART/`."""
    images = images or [image_entry(1)]
    for entry in images:
        path = root / part / str(entry["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(HEIGHT, WIDTH)).save(path)
    file = root / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(document))
    return file
