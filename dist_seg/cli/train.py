"""The options of `dist-seg preview` and `train`, which take a configuration."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, command
from dist_seg.errors import ConfigError
from dist_seg.runtime.launched import launched_rank
from dist_seg.runtime.startup import STARTUP


def add_training(commands: Commands) -> None:
    """`preview` and `train`."""
    _add_preview(commands)
    _add_train(commands)


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
    parser.add_argument(
        "--samples", type=int, default=16, metavar="N", help="how many, of several epochs if need be (%(default)s)"
    )
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
    if options.nproc is not None and launched_rank() is None:
        return _launch_train(options, argv, files, overrides)
    from dist_seg.commands.train import train
    from dist_seg.training.prepare import TrainOptions

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
    from dist_seg.config.load import load_config
    from dist_seg.launchers.torchrun import launch, processes

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
