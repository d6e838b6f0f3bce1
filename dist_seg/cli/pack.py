"""The options of `dist-seg pack`: a format each, and what they share."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, at_least_one, command

_COCO_DETAILS = """\
found without --split: annotations/instances_NAME.json with its images in NAME/ or images/NAME/; train2017 becomes
the split train. Class ids follow the order of the category ids, which are kept for results.
"""
_IDS_DETAILS = """\
0 is background, every other value an object. With --divisor 1000, as in Cityscapes, 24003 is an object of class 24,
and 24 alone a group of them that are not told apart (a crowd); a class without name and objects is background.
"""
_VOC_DETAILS = """\
the lists ImageSets/Segmentation/train.txt and val.txt become these splits. A ROOT with one list of another name, such
as CVAT's default.txt, is divided by --val. Classes: labelmap.txt in ROOT (`name:R,G,B::`), or else VOC's 21.
"""
_PANOPTIC_DETAILS = """\
found without --split: annotations/panoptic_NAME.json with its PNGs in annotations/panoptic_NAME/ and its images in
NAME/ or images/NAME/; train2017 becomes the split train. Class ids follow the order of the category ids.
"""
_STUFF_DETAILS = """\
found without --split: masks in annotations/NAME/, stuffthingmaps/NAME/ or semantic/NAME/ with their images in NAME/ or
images/NAME/; train2017 becomes the split train.
"""
_LABELME_DETAILS = """\
images are read from the JSON files or from where their imagePath says. Classes without --classes: labels.txt or
classes.txt in FOLDER or beside it, else the labels found, sorted. `_background_` is the first class, `__ignore__` none.
"""


def add_pack(commands: Commands) -> None:
    """`pack` and its formats."""
    parser = command(commands, "pack", "pack images and masks into WebDataset shards")
    formats = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    camvid = command(formats, "camvid", "the CamVid layout: train/, trainannot/, val/, valannot/")
    camvid.add_argument("source", type=Path, metavar="FOLDER", help="folder that holds train/ and trainannot/")
    camvid.add_argument(
        "--dev-prefix", default="", metavar="TEXT", help="training images with this prefix become the split `dev`"
    )
    folder = command(formats, "folder", "two folders of images and masks with equal names")
    folder.add_argument("images", type=Path, metavar="IMAGES", help="folder of images (sub-folders too)")
    folder.add_argument("masks", type=Path, metavar="MASKS", help="folder of masks with the images' stems")
    reading = folder.add_argument_group("masks")
    reading.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, in the order of the ids"
    )
    reading.add_argument("--colors", type=Path, metavar="FILE", help="for RGB masks: lines of `R G B name`")
    _add_splitting(folder)
    coco = command(formats, "coco", "instances in COCO's annotations: polygons and run lengths", _COCO_DETAILS)
    coco.add_argument("source", type=Path, metavar="ROOT", help="folder that holds annotations/ and the images")
    _add_splits(
        coco,
        ("NAME", "IMAGES", "JSON"),
        "a split by its folder of images and its annotations, below ROOT; once for each split",
    )
    coco.add_argument(
        "--multi-label", action="store_true", help="a layer for each class instead of objects; layers may overlap"
    )
    labels = command(formats, "labels", "a folder of images and one of masks for each class, which may overlap")
    labels.add_argument("images", type=Path, metavar="IMAGES", help="folder of images (sub-folders too)")
    labels.add_argument("masks", type=Path, metavar="MASKS", help="folder that holds CLASS/STEM.png: 0, and 1 or 255")
    reading = labels.add_argument_group("masks")
    reading.add_argument("--classes", type=Path, metavar="FILE", help="the classes, one a line, in the order wanted")
    reading.add_argument(
        "--unknown", type=int, metavar="N", help="number of pixels that may or may not be of the class"
    )
    reading.add_argument(
        "--missing-is-absent", action="store_true", help="an image without a mask of a class does not show it"
    )
    _add_splitting(labels)
    ids = command(formats, "instances", "a folder of images and one of grey PNGs of object ids", _IDS_DETAILS)
    ids.add_argument("images", type=Path, metavar="IMAGES", help="folder of images (sub-folders too)")
    ids.add_argument("masks", type=Path, metavar="MASKS", help="folder of 8- or 16-bit PNGs with the images' stems")
    reading = ids.add_argument_group("masks")
    reading.add_argument("--classes", type=Path, metavar="FILE", help="the class's name, or lines of `number name`")
    reading.add_argument(
        "--divisor", type=int, default=None, metavar="N", help="values are class * N + number (default: one class)"
    )
    _add_splitting(ids)
    cityscapes = command(
        formats, "cityscapes-instances", "Cityscapes' fine instances: leftImg8bit/ and gtFine/*_instanceIds.png"
    )
    cityscapes.add_argument("source", type=Path, metavar="ROOT", help="folder that holds leftImg8bit/ and gtFine/")
    synthetic = command(formats, "synthetic", "shapes on textured backgrounds, drawn here")
    synthetic.add_argument(
        "--task",
        choices=("semantic", "multilabel", "instance"),
        default="semantic",
        help="classes, layers that overlap, or objects (%(default)s)",
    )
    synthetic.add_argument("--train-images", type=int, default=480, metavar="N", help="training images (%(default)s)")
    synthetic.add_argument("--val-images", type=int, default=96, metavar="N", help="validation images (%(default)s)")
    synthetic.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"), help="pixels (128 128)")
    synthetic.add_argument("--seed", type=int, default=0, help="another seed draws other images (%(default)s)")
    own = command(formats, "reader", "your own reader, by dotted path")
    own.add_argument("reader", metavar="MODULE:FUNCTION", help="a function that returns a Source")
    own.add_argument("--arguments", nargs="*", default=(), metavar="TEXT", help="what the function is called with")
    kinds = {"camvid": camvid, "folder": folder, "coco": coco, "instances": ids, "cityscapes-instances": cityscapes}
    kinds |= {"labels": labels, "synthetic": synthetic, "reader": own, **_add_published(formats)}
    for kind, parser_of_kind in kinds.items():
        _add_writing(parser_of_kind)
        parser_of_kind.set_defaults(run=_run_pack, format=kind)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    """What all formats have in common: where the shards go, and how."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the shards to")
    writing = parser.add_argument_group("writing")
    writing.add_argument(
        "--workers", type=at_least_one, default=None, metavar="N", help="processes (default: the cores)"
    )
    writing.add_argument("--shard-mb", type=float, default=64, metavar="MB", help="size of a shard (%(default)s)")
    onto = writing.add_mutually_exclusive_group()
    onto.add_argument(
        "--part", dest="part_of", metavar="I/N", help="pack part I of N, into OUT/part-I-of-N; then `merge`"
    )
    onto.add_argument(
        "--append", action="store_true", help="add shards for what OUT has not; its shards stay as they are"
    )
    onto.add_argument("--overwrite", action="store_true", help="replace another data set in OUT")
    writing.add_argument(
        "--max-side", type=int, default=None, metavar="N", help="shrink images with a longer side than N pixels"
    )
    faults = parser.add_argument_group("faults")
    faults.add_argument(
        "--skip-bad", action="store_true", help="leave unusable samples and annotations out and count them"
    )
    faults.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=None,
        metavar="N",
        help="refuse images and masks with more pixels",
    )


def _add_published(formats: Commands) -> dict[str, argparse.ArgumentParser]:
    """Masks of classes in the layouts of public data sets."""
    voc = command(formats, "voc", "Pascal VOC's layout: JPEGImages/, SegmentationClass/, ImageSets/", _VOC_DETAILS)
    voc.add_argument("source", type=Path, metavar="ROOT", help="the folder of JPEGImages/: VOCdevkit/VOC2012")
    _add_splits(voc, ("NAME", "LIST"), "a split and its list in ImageSets/Segmentation/; once for each", "--list")
    reading = voc.add_argument_group("masks")
    reading.add_argument(
        "--masks", default="SegmentationClass", metavar="FOLDER", help="folder of masks below ROOT (%(default)s)"
    )
    reading.add_argument(
        "--classes", type=Path, metavar="FILE", help="a label map with lines `name:R,G,B::`, or class names, one a line"
    )
    _add_splitting(voc)
    cityscapes = command(formats, "cityscapes", "Cityscapes' 19 classes: leftImg8bit/ and gtFine/*_labelIds.png")
    cityscapes.add_argument("source", type=Path, metavar="ROOT", help="folder that holds leftImg8bit/ and gtFine/")
    ade20k = command(formats, "ade20k", "ADE20K's 150 classes for scene parsing: images/ and annotations/")
    ade20k.add_argument("source", type=Path, metavar="ROOT", help="the folder ADEChallengeData2016")
    panoptic = command(
        formats, "coco-panoptic", "classes from COCO's panoptic annotations: JSON and coloured PNGs", _PANOPTIC_DETAILS
    )
    panoptic.add_argument("source", type=Path, metavar="ROOT", help="folder that holds annotations/ and the images")
    _add_splits(panoptic, ("NAME", "IMAGES", "JSON", "PNGS"), "a split and its files, below ROOT; once for each split")
    panoptic.add_argument(
        "--merge-things", action="store_true", help="one class `things` for all objects, beside the classes of stuff"
    )
    stuff = command(formats, "coco-stuff", "COCO-Stuff, or other PNGs of COCO's category ids", _STUFF_DETAILS)
    stuff.add_argument("source", type=Path, metavar="ROOT", help="folder that holds the images and the masks")
    _add_splits(stuff, ("NAME", "IMAGES", "MASKS"), "a split and its folders, below ROOT; once for each split")
    reading = stuff.add_argument_group("masks")
    reading.add_argument(
        "--numbers",
        choices=("stuffthingmaps", "category-ids"),
        required=True,
        help="what a mask's numbers are: a label less one, 255 unlabelled; or a category's id, 0 unlabelled",
    )
    reading.add_argument(
        "--categories", type=Path, metavar="FILE", help="COCO's JSON or lines of `number name` (default: COCO-Stuff's)"
    )
    kinds = {"voc": voc, "cityscapes": cityscapes, "ade20k": ade20k, "coco-panoptic": panoptic, "coco-stuff": stuff}
    labelme = command(formats, "labelme", "LabelMe's JSON files: polygons, rectangles, circles", _LABELME_DETAILS)
    labelme.add_argument("source", type=Path, metavar="FOLDER", help="folder of the JSON files (sub-folders too)")
    reading = labelme.add_argument_group("masks")
    reading.add_argument("--classes", type=Path, metavar="FILE", help="labels, one a line, in the order of the ids")
    reading.add_argument(
        "--unlabelled",
        choices=("background", "ignore"),
        default="background",
        help="pixels under no shape: a class of their own, or left out (%(default)s)",
    )
    _add_splitting(labelme)
    return {**kinds, "labelme": labelme}


def _add_splits(parser: argparse.ArgumentParser, names: tuple[str, ...], text: str, option: str = "--split") -> None:
    parser.add_argument(option, dest="splits", nargs=len(names), action="append", default=[], metavar=names, help=text)


def _add_splitting(parser: argparse.ArgumentParser) -> None:
    splitting = parser.add_argument_group("split")
    splitting.add_argument(
        "--val", type=float, default=None, metavar="SHARE", help="for validation (0.1, unless the folders are divided)"
    )
    splitting.add_argument(
        "--group-by", metavar="REGEX", help="images whose match (or its groups) is equal stay on one side"
    )
    splitting.add_argument("--split", default=None, metavar="NAME", help="name of the split of the rest (train)")


def _run_pack(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.pack import run_pack

    return run_pack(options)
