"""`dist-seg preview`: a sheet of the inputs that the network will get."""

import argparse
import io
from pathlib import Path
from typing import Literal

from dist_seg.config.load import load_config
from dist_seg.config.recipes import given_or_shipped
from dist_seg.data.inspection.summary import check_output
from dist_seg.data.loading.loader import choose_loader
from dist_seg.distributed.world import detect_world
from dist_seg.errors import UserError
from dist_seg.storage.files import write_whole
from dist_seg.tasks.classes import class_info
from dist_seg.training.preview import difference, first_fed_samples, prepare_preview, preview_sheet

_SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")


def run_preview(options: argparse.Namespace) -> int:
    """The command."""
    check_output(options.out, _SHEET_SUFFIXES)
    if options.samples < 1:
        raise UserError(f"--samples {options.samples}: give at least 1")
    if options.step < 0:
        raise UserError(f"--step {options.step}: steps are counted from 0")
    files = [given_or_shipped(Path(text)) for text in options.settings if "=" not in text]
    config = load_config(files, [text for text in options.settings if "=" in text])
    world = detect_world()
    config, view = prepare_preview(config, world)
    loaders: list[Literal["torch", "dali"]] = ["torch", "dali"] if options.both_loaders else [choose_loader(config)]
    fed = [
        list(first_fed_samples(config, loader, view, world, first_step=options.step, count=options.samples))
        for loader in loaders
    ]
    captions = []
    for first, *others in zip(*fed, strict=True):
        apart = "".join(f": {difference(first, other)}" for other in others)
        captions.append(f"{first.key}  {first.image.shape[1]}x{first.image.shape[0]}{apart}")
    title = f"{config.data.location}, {config.data.train_split}, from step {options.step}: {' | '.join(loaders)}"
    sheet = preview_sheet(list(zip(*fed, strict=True)), captions, config.task, class_info(view), title)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG" if options.out.suffix.lower() == ".png" else "JPEG")
    write_whole(options.out, encoded.getvalue())
    for caption in captions if options.both_loaders else ():
        print(caption)
    print(f"{len(captions)} samples: {options.out}")
    return 0
