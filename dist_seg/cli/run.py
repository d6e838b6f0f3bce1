"""The parsers of the commands that work on a run: `eval`, `predict`, `report`, `audit` and `checkpoint`."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, command


def add_run(commands: Commands) -> None:
    """`eval`, `predict`, `report`, `audit` and `checkpoint`."""
    _add_eval(commands)
    _add_predict(commands)
    _add_report(commands)
    _add_audit(commands)
    _add_checkpoint(commands)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_argument_group("model")
    choice.add_argument(
        "--checkpoint", default="last", metavar="best|last|STEP", help="checkpoint to use (default: %(default)s)"
    )
    choice.add_argument(
        "--weights", choices=("ema", "raw"), default=None, help="weights to use (default: ema if the run kept it)"
    )


def _add_eval(commands: Commands) -> None:
    parser = command(commands, "eval", "score a run's model on a split; the scores are exact at any number of ranks")
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="overrides such as eval.flip=true or data.loader=torch"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", default=None, metavar="SHARDS", help="packed data set to score on (default: that of the training)"
    )
    data.add_argument("--split", default=None, help="split to score on (default: the run's validation split)")
    _add_model_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, default=None, metavar="FILE", help="file for the result (default: RUN/eval-SPLIT.json)"
    )
    output.add_argument("--allow-bad", action="store_true", help="exit 0 even if samples could not be decoded")
    parser.set_defaults(run=_run_eval)


def _run_eval(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.evaluate import run_eval

    return run_eval(options)


_PREDICT_DETAILS = """\
output for every picture:
  NAME_overlay.png  the picture with its prediction drawn over it
  NAME.png          the mask: class ids (8 bits) or object ids (16 bits)
  NAME.tif          instead of NAME.png for labels that overlap: one page per label, in the order of legend.png
output for all pictures:
  predictions.json  instances: all objects in COCO's format, with the pictures' file names
  legend.png        other tasks: the colour of each class

predict overwrites only files that it wrote itself and that have not changed since. It refuses to overwrite any other
file. The record of what it wrote is .predicted-RANK.jsonl in the output folder.
"""


def _add_predict(commands: Commands) -> None:
    parser = command(commands, "predict", "segment pictures with a run's model", _PREDICT_DETAILS)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("input", type=Path, metavar="IMAGE_OR_FOLDER", help="a picture, or a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the output")
    parser.add_argument(
        "--window",
        type=int,
        default=None,
        metavar="PIXELS",
        help="side of the windows into which large pictures are cut (default: 1024, above 2048 x 2048 pixels)",
    )
    instances = parser.add_argument_group("instances")
    instances.add_argument(
        "--min-score",
        type=float,
        default=None,
        metavar="X",
        help="leave instances with a lower score out of masks and overlays; predictions.json has all of them "
        "(default: the run's eval.merge_threshold)",
    )
    instances.add_argument(
        "--images",
        type=Path,
        default=None,
        metavar="JSON",
        help="COCO annotations that give the pictures' ids (default: count from 1)",
    )
    _add_model_options(parser)
    parser.set_defaults(run=_run_predict)


def _run_predict(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.predict import run_predict

    return run_predict(options)


def _add_report(commands: Commands) -> None:
    parser = command(commands, "report", "write a run's report again")
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of the run")
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.report import run_report

    return run_report(options)


def _add_audit(commands: Commands) -> None:
    parser = command(
        commands, "audit", "compare two runs batch by batch; exit 0 if they agree, 1 at the first difference"
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="folder of a run")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="folder of the run to compare with")
    parser.set_defaults(run=_run_audit)


def _run_audit(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.runs.audit import audit, describe

    result = audit(options.run_a, options.run_b)
    print(describe(result))
    return 0 if result.agrees else 1


_CHECKPOINT_DETAILS = """\
RUN is the folder of a run, a folder or URL of checkpoints (s3://, gs://, az://), or a single checkpoint (except for
prune)
"""


def _add_checkpoint(commands: Commands) -> None:
    parser = command(commands, "checkpoint", "list, check, delete and export checkpoints", _CHECKPOINT_DETAILS)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    ls = _checkpoint_action(actions, "ls", "list the checkpoints with age, size and score, and whether they look whole")
    ls.add_argument("--json", action="store_true", help="print JSON")
    show = _checkpoint_action(actions, "show", "show a checkpoint's data, configuration and tensors")
    verify = _checkpoint_action(
        actions, "verify", "read every byte of the checkpoints; name what is damaged and exit 1 if anything is"
    )
    verify.add_argument(
        "--checkpoint", default=None, metavar="best|last|STEP", help="check only this one (default: all)"
    )
    prune = _checkpoint_action(actions, "prune", "delete all checkpoints except those that you keep")
    prune.add_argument("--keep-last", type=int, required=True, metavar="N", help="keep the newest N")
    prune.add_argument("--keep-best", action="store_true", help="keep the one with the best score")
    prune.add_argument("--keep-every", type=int, default=0, metavar="N", help="keep those at multiples of N steps")
    prune.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    export = _checkpoint_action(
        actions, "export", "write the weights to one safetensors file, with the configuration in its metadata"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    _add_model_options(export)
    show.add_argument(
        "--checkpoint", default="last", metavar="best|last|STEP", help="checkpoint to show (default: %(default)s)"
    )


def _checkpoint_action(actions: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    parser = command(actions, name, summary, _CHECKPOINT_DETAILS)
    parser.add_argument("run_dir", metavar="RUN", help="folder of a run, or path or URL of checkpoints")
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
