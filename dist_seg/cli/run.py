"""The options of `dist-seg eval`, `predict`, `report`, `audit` and `checkpoint`: what is done with a run."""

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
instead, with a page for each label in the order of legend.png. What it wrote, and nobody changed since, it writes
again; any other file it leaves as it is, and says so (.predicted-RANK.jsonl in the folder records what it wrote)
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
    from dist_seg.runs.audit import audit, describe

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
