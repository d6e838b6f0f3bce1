"""The command line. Nothing heavy is imported before a command runs, so that --help answers at once."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dist_seg import __version__
from dist_seg.cli_pack import Commands, add_pack, at_least_one, command
from dist_seg.errors import ConfigError, RunFailedError, UserError
from dist_seg.runtime.startup import STARTUP

EXIT_FAULT, EXIT_STOPPED = 1, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 good, 1 fault, 2 the user's error, 143 preempted."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(argv)
    _set_up_logging()
    if isinstance(sys.stdout, io.TextIOWrapper):  # Names of files may not be UTF-8: shown as stderr shows them.
        sys.stdout.reconfigure(errors="backslashreplace")
    if "" not in sys.path:  # The user's own modules lie in the working directory; last, so that they shadow nothing.
        sys.path.append("")
    run: Callable[[argparse.Namespace, list[str]], int] = options.run
    try:
        return run(options, argv)
    except (UserError, RunFailedError) as error:
        rank = os.environ.get("RANK", "0")
        # A shared error is raised by all ranks: one says so. Configuration is read by the ranks of a machine alike.
        of_machine = isinstance(error, ConfigError) and os.environ.get("LOCAL_RANK", "0") != "0"
        if rank == "0" or not (of_machine or getattr(error, "shared", False)):
            print(f"dist-seg: {'' if rank == '0' else f'rank {rank}: '}{error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("dist-seg: stopped by Ctrl-C; the same command goes on or starts again", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        return EXIT_FAULT


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    options, rest = parser.parse_known_args(argv)
    # argparse takes a list of positionals in one piece only: `train a.yaml --nproc 2 optim.lr=0.1` leaves one over.
    strays = [text for text in rest if text.startswith("-") or not hasattr(options, "settings")]
    if strays:
        parser.error(f"unrecognized arguments: {' '.join(strays)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _set_up_logging() -> None:
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    prefix = f"[rank {rank}] " if rank is not None and world_size != "1" else ""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {prefix}%(message)s", datefmt="%H:%M:%S")
    for name in ("timm", "matplotlib", "PIL", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(prog="dist-seg", description="Train image segmentation from packed shards.")
    parser.add_argument("--version", action="version", version=f"dist-seg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_pack(commands)
    _add_merge(commands)
    _add_index(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_preview(commands)
    _add_train(commands)
    _add_eval(commands)
    _add_predict(commands)
    _add_report(commands)
    _add_audit(commands)
    _add_checkpoint(commands)
    return parser


_MERGE_DETAILS = """\
parts keep the names of their shards: the result is byte for byte what one machine would have packed. Shards of data
sets are numbered anew. Nothing is deleted: OUT gets hard links, or copies on another file system, and the merged
folders may go afterwards
"""


def _add_merge(commands: Commands) -> None:
    parser = command(
        commands, "merge", "merge the parts of a data set, or data sets of the same classes", _MERGE_DETAILS
    )
    parser.add_argument("out", metavar="OUT", help="new folder for the merged data set")
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="packed parts, or data sets (default: the parts that lie in OUT)"
    )
    parser.set_defaults(run=_run_merge)


def _run_merge(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.collect import run_merge

    return run_merge(options)


_INDEX_DETAILS = """\
a sample is KEY.jpg, .jpeg or .png with KEY.seg.png, an 8-bit grey PNG of class ids, as the webdataset library groups
them. Written are manifest.json, index.dist-seg.json, and beside each tar .idx and .samples; the tars are only read.
Splits go by the names of tars and folders (train, val, test), classes by --classes or a classes.txt in FOLDER, else by
the masks
"""


def _add_index(commands: Commands) -> None:
    parser = command(
        commands, "index", "make WebDataset tars that others wrote a data set, as they lie", _INDEX_DETAILS
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder that holds the tars (sub-folders too)")
    contents = parser.add_argument_group("contents")
    contents.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, in the order of the ids; `11 void`"
    )
    contents.add_argument("--ignore-index", type=int, metavar="N", help="number of pixels that do not count (255)")
    contents.add_argument(
        "--split", action="append", default=[], metavar="NAME=GLOB", help="tars of a split, such as train='tr-*.tar'"
    )
    contents.add_argument(
        "--image-suffix", action="append", metavar="TEXT", help="of the images (jpg, jpeg, png); may be repeated"
    )
    contents.add_argument("--mask-suffix", default="seg.png", metavar="TEXT", help="of the masks (%(default)s)")
    contents.add_argument(
        "--workers", type=at_least_one, default=None, metavar="N", help="threads (default: the cores)"
    )
    faults = parser.add_argument_group("faults")
    faults.add_argument(
        "--skip-bad", action="store_true", help="do not list samples that cannot be used, and count them"
    )
    faults.add_argument(
        "--max-pixels", type=at_least_one, default=None, metavar="N", help="refuse images and masks with more pixels"
    )
    parser.set_defaults(run=_run_index)


def _run_index(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.collect import run_index

    return run_index(options)


def _add_verify(commands: Commands) -> None:
    parser = command(commands, "verify", "check every byte of a packed data set; exit 1 if anything is wrong")
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL that holds manifest.json")
    parser.set_defaults(run=_run_verify)


def _run_verify(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.data import run_verify

    return run_verify(options)


_INSPECT_DETAILS = """\
looked for: copies of images (re-encoded, scaled, cropped, mirrored) and frames of one video across splits and inside
one, masks that are shifted, turned or of another image, masks with nothing in them, classes that a split lacks or one
sample alone has, images unlike the rest, and of instances specks, slivers and objects that are there twice

exit codes: 0 done, 1 with --strict when something is worse than a note, 2 something to mend in the call or the data
"""


def _add_inspect(commands: Commands) -> None:
    summary = "count classes and pixels, find leaks and faulty masks, and draw contact sheets"
    parser = command(commands, "inspect", summary, _INSPECT_DETAILS)
    parser.add_argument("shards", metavar="SHARDS", help="folder or URL that holds manifest.json")
    parser.add_argument("--split", default=None, metavar="NAME", help="one split only, in all that follows (all)")
    looking = parser.add_argument_group("looking for trouble")
    looking.add_argument(
        "--look",
        type=int,
        default=100_000,
        metavar="N",
        help="samples of each split to look at, evenly spread; 0: counts alone, nothing is decoded (%(default)s)",
    )
    looking.add_argument("--workers", type=int, default=None, metavar="N", help="processes (one for each core)")
    looking.add_argument("--strict", action="store_true", help="exit 1 when something is worse than a note")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, default=Path("contact_sheet.png"), metavar="FILE", help="contact sheet (%(default)s)"
    )
    output.add_argument(
        "--samples", type=int, default=16, metavar="N", help="images of each split on the sheet (%(default)s)"
    )
    output.add_argument(
        "--suspects", type=Path, default=None, metavar="FILE", help="sheet of what was found (suspects.png beside it)"
    )
    output.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write counts and findings as JSON, too"
    )
    parser.set_defaults(run=_run_inspect)


def _run_inspect(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.inspect import run_inspect

    return run_inspect(options)


_TRAIN_DETAILS = """\
examples:
  dist-seg train                          the synthetic recipe, after `dist-seg pack synthetic data/synthetic`
  dist-seg train synthetic_instances.yaml a recipe that comes with dist-seg, by its name
  dist-seg train data.shards=data/mine    crop, batch and steps fitted to data and machine
  dist-seg train configs/camvid_deeplabv3plus.yaml optim.lr=0.01 run.dir=runs/other
  torchrun --nproc-per-node 2 -m dist_seg train configs/camvid_deeplabv3plus.yaml

exit codes: 0 done, 1 fault, 2 something to mend in the call or the data, 143 stopped by SIGTERM or Ctrl-C,
with a checkpoint of the last step
"""


_PREVIEW_DETAILS = """\
examples:
  dist-seg preview configs/camvid_deeplabv3plus.yaml
  dist-seg preview data.shards=data/mine augment.rotate_deg=20 --both-loaders --out rotated.png
"""


def _add_preview(commands: Commands) -> None:
    parser = command(
        commands, "preview", "draw what the network will be fed: augmented images, targets over them", _PREVIEW_DETAILS
    )
    parser.add_argument(
        "settings", nargs="*", metavar="FILE.yaml | KEY=VALUE", help="as `train` takes them, the later win"
    )
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="from this training step on (%(default)s)")
    parser.add_argument(
        "--both-loaders", action="store_true", help="by torch and by DALI, side by side, and how far they are apart"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("preview.png"), metavar="FILE", help="the sheet, PNG or JPEG (%(default)s)"
    )
    parser.set_defaults(run=_run_preview)


def _run_preview(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.preview import run_preview

    return run_preview(options)


def _add_train(commands: Commands) -> None:
    parser = command(commands, "train", "train a model, or go on with a run that was stopped", _TRAIN_DETAILS)
    parser.add_argument(
        "settings", nargs="*", metavar="FILE.yaml | KEY=VALUE", help="configuration files and overrides, the later win"
    )
    parser.add_argument(
        "--nproc", default=None, metavar="N", help="start N processes with torchrun; auto: one per visible GPU"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="K",
        help="with --nproc: start all ranks again after one failed, K times at most (%(default)s)",
    )
    before = parser.add_argument_group("before the start")
    before.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    before.add_argument("--dry-run", action="store_true", help="check everything before the first step, estimate, stop")
    existing = parser.add_argument_group("a run folder that holds a run")
    choice = existing.add_mutually_exclusive_group()
    choice.add_argument("--fresh", action="store_true", help="start anew; the old folder is moved aside")
    choice.add_argument("--resume-with-changes", action="store_true", help="go on although settings or data differ")
    parser.set_defaults(run=_run_train)


def _run_train(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.config.recipes import given_or_shipped, recipe_path

    files = [given_or_shipped(Path(text)) for text in options.settings if "=" not in text]
    overrides = [text for text in options.settings if "=" in text]
    if not files and not any(text.startswith(("data.shards=", "data.mix=")) for text in overrides):
        files = [recipe_path("synthetic.yaml")]
    if options.max_restarts and options.nproc is None:
        raise ConfigError("--max-restarts needs --nproc; torchrun has an option of that name itself")
    if options.nproc is not None and "RANK" not in os.environ:
        return _launch_train(options, argv, files, overrides)
    from dist_seg.commands.train import TrainOptions, train

    return train(
        TrainOptions(
            files=files,
            overrides=overrides,
            print_config=options.print_config,
            dry_run=options.dry_run,
            fresh=options.fresh,
            resume_with_changes=options.resume_with_changes,
        ),
        STARTUP.process_started,
    )


def _launch_train(options: argparse.Namespace, argv: list[str], files: list[Path], overrides: list[str]) -> int:
    from dist_seg.commands.launch import launch, processes
    from dist_seg.config.load import load_config

    if options.max_restarts < 0:
        raise ConfigError(f"--max-restarts {options.max_restarts}: expected 0 or more")
    config = load_config(files, overrides)
    rest = _without(_without(argv, "--nproc"), "--max-restarts")
    return launch(processes(options.nproc), options.max_restarts, rest, config)


def _without(argv: list[str], option: str) -> list[str]:
    """The arguments without an option that takes a value."""
    if option in argv:
        at = argv.index(option)
        return argv[:at] + argv[at + 2 :]
    return [text for text in argv if not text.startswith(f"{option}=")]


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_argument_group("model")
    choice.add_argument("--checkpoint", default="last", metavar="best|last|STEP", help="which checkpoint (%(default)s)")
    choice.add_argument("--weights", choices=("ema", "raw"), default=None, help="default: ema where it was kept")


def _add_eval(commands: Commands) -> None:
    parser = command(commands, "eval", "score a run's model on a split; exact at any number of ranks")
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as eval.flip=true or data.loader=torch")
    data = parser.add_argument_group("data")
    data.add_argument("--data", default=None, metavar="SHARDS", help="other shards than those of the training")
    data.add_argument("--split", default=None, help="default: the run's validation split")
    _add_model_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=None, metavar="FILE", help="default: RUN/eval-SPLIT.json")
    output.add_argument("--allow-bad", action="store_true", help="exit 0 even if samples had to be left out")
    parser.set_defaults(run=_run_eval)


def _run_eval(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.evaluate import run_eval

    return run_eval(options)


_PREDICT_DETAILS = """\
written: NAME.png, class ids in 8 bits or object ids in 16, and NAME_overlay.png for every picture; of instances
predictions.json, all of them in COCO's format with the pictures' file names; of labels that may overlap NAME.tif
instead, with a page for each label in the order of legend.png
"""


def _add_predict(commands: Commands) -> None:
    parser = command(commands, "predict", "segment pictures with a run's model", _PREDICT_DETAILS)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("input", type=Path, metavar="IMAGE_OR_FOLDER", help="a picture, or a folder of them")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for PNGs of class or object ids, overlays and predictions.json"
    )
    parser.add_argument(
        "--window", type=int, default=None, metavar="PIXELS", help="side of the windows of large pictures"
    )
    instances = parser.add_argument_group("instances")
    instances.add_argument(
        "--min-score",
        type=float,
        default=None,
        metavar="X",
        help="less sure ones stand in predictions.json only (default: the run's eval.merge_threshold)",
    )
    instances.add_argument(
        "--images", type=Path, default=None, metavar="JSON", help="COCO annotations that pictures have their ids from"
    )
    _add_model_options(parser)
    parser.set_defaults(run=_run_predict)


def _run_predict(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.predict import run_predict

    return run_predict(options)


def _add_report(commands: Commands) -> None:
    parser = command(commands, "report", "draw a run's report again")
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.report import run_report

    return run_report(options)


def _add_audit(commands: Commands) -> None:
    parser = command(
        commands, "audit", "compare two runs, batch by batch; exit 0 if they agree, 1 at the first difference"
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A")
    parser.add_argument("run_b", type=Path, metavar="RUN_B")
    parser.set_defaults(run=_run_audit)


def _run_audit(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.audit import audit, describe

    result = audit(options.run_a, options.run_b)
    print(describe(result))
    return 0 if result.agrees else 1


_CHECKPOINT_DETAILS = """\
RUN is the folder of a run, a folder or URL of checkpoints (s3://, gs://, az://), or, but for prune, one checkpoint
"""


def _add_checkpoint(commands: Commands) -> None:
    parser = command(commands, "checkpoint", "list, check, delete and export checkpoints", _CHECKPOINT_DETAILS)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    ls = _checkpoint_action(actions, "ls", "the checkpoints with age, size, score, and whether they look whole")
    ls.add_argument("--json", action="store_true", help="print JSON")
    show = _checkpoint_action(actions, "show", "what one holds: its data, configuration and tensors")
    verify = _checkpoint_action(actions, "verify", "read every byte of all of them; exit 1 with what is wrong")
    verify.add_argument("--checkpoint", default=None, metavar="best|last|STEP", help="this one only")
    prune = _checkpoint_action(actions, "prune", "delete checkpoints but those to keep")
    prune.add_argument("--keep-last", type=int, required=True, metavar="N", help="keep the newest N")
    prune.add_argument("--keep-best", action="store_true", help="keep the one with the best score")
    prune.add_argument("--keep-every", type=int, default=0, metavar="N", help="keep those at multiples of N steps")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    export = _checkpoint_action(
        actions, "export", "one safetensors file with the weights, and the configuration in its metadata"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    _add_model_options(export)
    show.add_argument("--checkpoint", default="last", metavar="best|last|STEP", help="which checkpoint (%(default)s)")


def _checkpoint_action(actions: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    parser = command(actions, name, summary, _CHECKPOINT_DETAILS)
    parser.add_argument("run_dir", metavar="RUN", help="a run, or its checkpoints by path or URL")
    parser.set_defaults(run=_run_checkpoint, action=name)
    return parser


def _run_checkpoint(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands import checkpoint

    match options.action:
        case "ls":
            return checkpoint.run_ls(options)
        case "show":
            return checkpoint.run_show(options)
        case "verify":
            return checkpoint.run_verify(options)
        case "prune":
            return checkpoint.run_prune(options)
        case _:
            return checkpoint.run_export(options)


if __name__ == "__main__":
    sys.exit(main())
