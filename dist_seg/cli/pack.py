"""The parser of `dist-seg pack`: a sub-command for each raw format, and the options that all formats share."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, add_faults, add_workers, command


def add_pack(commands: Commands) -> None:
    """`pack` and its formats."""
    parser = command(commands, "pack", "pack images and masks into WebDataset shards")
    formats = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    for add in (
        _add_camvid,
        _add_folder,
        _add_coco,
        _add_labels,
        _add_instances,
        _add_cityscapes_instances,
        _add_synthetic,
        _add_reader,
        _add_voc,
        _add_cityscapes,
        _add_ade20k,
        _add_panoptic,
        _add_stuff,
        _add_labelme,
    ):
        _add_writing(add(formats))


def _format(formats: Commands, name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
    parser = command(formats, name, summary, details)
    parser.set_defaults(run=_run_pack, format=name)
    return parser


def _run_pack(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.pack import run_pack

    return run_pack(options)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    """What all formats share: where the shards go, and how they are written."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards")
    writing = parser.add_argument_group("writing")
    add_workers(writing, "worker processes (default: one per core)")
    writing.add_argument(
        "--shard-mb", type=float, default=64, metavar="MB", help="target size of a shard in megabytes (default: 64)"
    )
    onto = writing.add_mutually_exclusive_group()
    onto.add_argument(
        "--part", dest="part_of", metavar="I/N", help="pack part I of N into OUT/part-I-of-N; `merge` joins the parts"
    )
    onto.add_argument(
        "--append", action="store_true", help="add shards for samples that OUT lacks; its shards do not change"
    )
    onto.add_argument("--overwrite", action="store_true", help="replace another data set in OUT")
    writing.add_argument(
        "--max-side", type=int, default=None, metavar="N", help="shrink images whose longer side exceeds N pixels"
    )
    add_faults(parser, "leave unusable samples and annotations out and count them")


def _add_root(parser: argparse.ArgumentParser, text: str, metavar: str = "ROOT") -> None:
    parser.add_argument("source", type=Path, metavar=metavar, help=text)


def _add_two_folders(parser: argparse.ArgumentParser, masks: str) -> None:
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, searched with its sub-folders")
    parser.add_argument("masks", type=Path, metavar="MASKS", help=masks)


def _add_splits(parser: argparse.ArgumentParser, names: tuple[str, ...], text: str, option: str = "--split") -> None:
    parser.add_argument(option, dest="splits", nargs=len(names), action="append", default=[], metavar=names, help=text)


def _add_dividing(parser: argparse.ArgumentParser) -> None:
    """How to divide a data set that is not divided into splits yet."""
    splitting = parser.add_argument_group("split")
    splitting.add_argument(
        "--val",
        type=float,
        default=None,
        metavar="SHARE",
        help="share of the images for validation (default: 0.1, or 0 if the folders are divided already)",
    )
    splitting.add_argument(
        "--group-by",
        metavar="REGEX",
        help="keep images together whose paths give the same match, or the same groups of the match",
    )
    splitting.add_argument(
        "--split", default=None, metavar="NAME", help="split of the images that are not for validation (default: train)"
    )


def _add_camvid(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "camvid", "the CamVid layout: train/, trainannot/, val/, valannot/")
    _add_root(parser, "folder that holds train/ and trainannot/", "FOLDER")
    parser.add_argument(
        "--dev-prefix", default="", metavar="TEXT", help="put training images with this prefix into the split `dev`"
    )
    return parser


def _add_folder(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "folder", "a folder of images and a folder of masks with the same names")
    _add_two_folders(parser, "folder of masks, named like the images (the suffix may differ)")
    reading = parser.add_argument_group("masks")
    reading.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one per line, in the order of the ids"
    )
    reading.add_argument("--colors", type=Path, metavar="FILE", help="for RGB masks: lines of `R G B name`")
    _add_dividing(parser)
    return parser


def _add_labels(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "labels", "a folder of images, and for each class a folder of masks; classes may overlap")
    _add_two_folders(parser, "folder that holds CLASS/STEM.png, with values 0 and 1, or 0 and 255")
    reading = parser.add_argument_group("masks")
    reading.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one per line, in the order that you want"
    )
    reading.add_argument(
        "--unknown", type=int, metavar="N", help="mask value of pixels that may or may not belong to the class"
    )
    reading.add_argument(
        "--missing-is-absent", action="store_true", help="an image that has no mask of a class does not show the class"
    )
    _add_dividing(parser)
    return parser


_IDS_DETAILS = """\
0 is background, and every other value is an object. With --divisor 1000, as in Cityscapes, 24003 is an object of class
24. The value 24 alone is a group of such objects that are not told apart (a crowd). A class that has neither a name nor
objects is background.
"""


def _add_instances(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "instances", "a folder of images and a folder of grey PNGs of object ids", _IDS_DETAILS)
    _add_two_folders(parser, "folder of 8- or 16-bit PNGs, named like the images")
    reading = parser.add_argument_group("masks")
    reading.add_argument("--classes", type=Path, metavar="FILE", help="the class name, or lines of `number name`")
    reading.add_argument(
        "--divisor", type=int, default=None, metavar="N", help="values are class * N + number (default: one class)"
    )
    _add_dividing(parser)
    return parser


_COCO_DETAILS = """\
Without --split, pack looks for annotations/instances_NAME.json, with its images in NAME/ or images/NAME/. train2017
becomes the split train. Class ids follow the order of the category ids, which are kept for results.
"""


def _add_coco(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "coco", "instances in COCO's annotations: polygons and run lengths", _COCO_DETAILS)
    _add_root(parser, "folder that holds annotations/ and the images")
    _add_splits(
        parser,
        ("NAME", "IMAGES", "JSON"),
        "a split with its folder of images and its annotations, both below ROOT; once for each split",
    )
    parser.add_argument(
        "--multi-label", action="store_true", help="pack a layer for each class instead of objects; layers may overlap"
    )
    return parser


_PANOPTIC_DETAILS = """\
Without --split, pack looks for annotations/panoptic_NAME.json, with its PNGs in annotations/panoptic_NAME/ and its
images in NAME/ or images/NAME/. train2017 becomes the split train. Class ids follow the order of the category ids.
"""


def _add_panoptic(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(
        formats, "coco-panoptic", "classes from COCO's panoptic annotations: JSON and coloured PNGs", _PANOPTIC_DETAILS
    )
    _add_root(parser, "folder that holds annotations/ and the images")
    _add_splits(
        parser,
        ("NAME", "IMAGES", "JSON", "PNGS"),
        "a split with its images, annotations and PNGs, all below ROOT; once for each split",
    )
    parser.add_argument(
        "--merge-things",
        action="store_true",
        help="make all objects one class `things`, beside the classes of stuff",
    )
    return parser


_STUFF_DETAILS = """\
Without --split, pack looks for masks in annotations/NAME/, stuffthingmaps/NAME/ or semantic/NAME/, with their images in
NAME/ or images/NAME/. train2017 becomes the split train.
"""


def _add_stuff(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "coco-stuff", "COCO-Stuff, or other PNGs of COCO's category ids", _STUFF_DETAILS)
    _add_root(parser, "folder that holds the images and the masks")
    _add_splits(
        parser,
        ("NAME", "IMAGES", "MASKS"),
        "a split with its folders of images and masks, both below ROOT; once for each split",
    )
    reading = parser.add_argument_group("masks")
    reading.add_argument(
        "--numbers",
        choices=("stuffthingmaps", "category-ids"),
        required=True,
        help="mask values: stuffthingmaps are labels less one, 255 is unlabelled; category-ids are category ids, 0 is "
        "unlabelled",
    )
    reading.add_argument(
        "--categories", type=Path, metavar="FILE", help="COCO's JSON or lines of `number name` (default: COCO-Stuff's)"
    )
    return parser


def _add_cityscapes(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "cityscapes", "Cityscapes' 19 classes: leftImg8bit/ and gtFine/*_labelIds.png")
    _add_root(parser, "folder that holds leftImg8bit/ and gtFine/")
    return parser


def _add_cityscapes_instances(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(
        formats, "cityscapes-instances", "Cityscapes' fine instances: leftImg8bit/ and gtFine/*_instanceIds.png"
    )
    _add_root(parser, "folder that holds leftImg8bit/ and gtFine/")
    return parser


def _add_ade20k(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "ade20k", "ADE20K's 150 classes for scene parsing: images/ and annotations/")
    _add_root(parser, "the folder ADEChallengeData2016")
    return parser


_VOC_DETAILS = """\
The lists ImageSets/Segmentation/train.txt and val.txt become the splits train and val. If ROOT has one list of another
name, such as CVAT's default.txt, --val divides it. Classes come from labelmap.txt in ROOT (`name:R,G,B::`); without it
they are VOC's 21.
"""


def _add_voc(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "voc", "Pascal VOC's layout: JPEGImages/, SegmentationClass/, ImageSets/", _VOC_DETAILS)
    _add_root(parser, "folder that holds JPEGImages/, such as VOCdevkit/VOC2012")
    _add_splits(
        parser, ("NAME", "LIST"), "a split with its list in ImageSets/Segmentation/; once for each split", "--list"
    )
    reading = parser.add_argument_group("masks")
    reading.add_argument(
        "--masks",
        default="SegmentationClass",
        metavar="FOLDER",
        help="folder of masks below ROOT (default: %(default)s)",
    )
    reading.add_argument(
        "--classes", type=Path, metavar="FILE", help="lines of `name:R,G,B::`, or class names, one per line"
    )
    _add_dividing(parser)
    return parser


_LABELME_DETAILS = """\
Images are read from the JSON files, or from the files that their imagePath names. Without --classes, classes come from
labels.txt or classes.txt in FOLDER or beside it, or else are the labels found, sorted. `_background_` is the first
class; `__ignore__` is no class.
"""


def _add_labelme(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "labelme", "LabelMe's JSON files: polygons, rectangles, circles", _LABELME_DETAILS)
    _add_root(parser, "folder of JSON files, searched with its sub-folders", "FOLDER")
    reading = parser.add_argument_group("masks")
    reading.add_argument("--classes", type=Path, metavar="FILE", help="labels, one per line, in the order of the ids")
    reading.add_argument(
        "--unlabelled",
        choices=("background", "ignore"),
        default="background",
        help="pixels under no shape are a class of their own, or ignored (default: %(default)s)",
    )
    _add_dividing(parser)
    return parser


def _add_synthetic(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "synthetic", "generated shapes on textured backgrounds")
    parser.add_argument(
        "--task",
        choices=("semantic", "multilabel", "instance"),
        default="semantic",
        help="targets are class ids, layers that may overlap, or objects (default: %(default)s)",
    )
    for split, count in (("train", 480), ("val", 96)):
        name = "training" if split == "train" else "validation"
        parser.add_argument(
            f"--{split}-images", type=int, default=count, metavar="N", help=f"{name} images (default: %(default)s)"
        )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"), help="pixels (default: 128 128)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other images (default: %(default)s)")
    return parser


def _add_reader(formats: Commands) -> argparse.ArgumentParser:
    parser = _format(formats, "reader", "your own reader, by dotted path")
    parser.add_argument("reader", metavar="MODULE:FUNCTION", help="a function that returns a Source")
    parser.add_argument("--arguments", nargs="*", default=(), metavar="TEXT", help="arguments of the function")
    return parser
