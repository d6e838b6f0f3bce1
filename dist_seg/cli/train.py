"""The parsers of `dist-seg preview` and `dist-seg train`, which take a configuration."""

import argparse
from pathlib import Path

from dist_seg.cli.options import Commands, command
from dist_seg.errors import ConfigError
from dist_seg.runtime.launched import launched_rank
from dist_seg.runtime.startup import StartUp


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
        commands, "preview", "draw the augmented images and targets that the network will get", _PREVIEW_DETAILS
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="FILE.yaml | KEY=VALUE",
        help="configuration files and overrides, as for `train`; later ones win",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=16,
        metavar="N",
        help="number of samples, taken from several epochs if necessary (default: %(default)s)",
    )
    parser.add_argument(
        "--step", type=int, default=0, metavar="N", help="start at this training step (default: %(default)s)"
    )
    parser.add_argument(
        "--both-loaders", action="store_true", help="show torch and DALI side by side, and how much they differ"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("preview.png"),
        metavar="FILE",
        help="output image, PNG or JPEG (default: %(default)s)",
    )
    parser.set_defaults(run=_run_preview)


def _run_preview(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.commands.preview import run_preview

    return run_preview(options)


_TRAIN_DETAILS = """\
examples:
  dist-seg train                          the synthetic recipe, after `dist-seg pack synthetic data/synthetic`
  dist-seg train synthetic_instances.yaml a recipe that comes with dist-seg, by its name
  dist-seg train data.shards=data/mine    your data; crop, batch and steps are chosen for it and your machine
  dist-seg train configs/camvid_deeplabv3plus.yaml optim.lr=0.01 run.dir=runs/other
  torchrun --nproc-per-node 2 -m dist_seg train configs/camvid_deeplabv3plus.yaml

exit codes: 0 done; 1 fault; 2 something to fix in the command or the data; 143 stopped by SIGTERM or Ctrl-C, after
saving a checkpoint of the last step
"""


def _add_train(commands: Commands) -> None:
    parser = command(commands, "train", "train a model, or resume a run that was stopped", _TRAIN_DETAILS)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="FILE.yaml | KEY=VALUE",
        help="configuration files and overrides; later ones win",
    )
    parser.add_argument(
        "--nproc", default=None, metavar="N", help="start N processes with torchrun; `auto` starts one per visible GPU"
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="K",
        help="with --nproc: restart all ranks up to K times after one of them failed (default: %(default)s)",
    )
    before = parser.add_argument_group("check before you train")
    before.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    before.add_argument(
        "--dry-run", action="store_true", help="check everything, estimate time and memory, and stop before training"
    )
    existing = parser.add_argument_group("if the run folder already holds a run")
    choice = existing.add_mutually_exclusive_group()
    choice.add_argument(
        "--fresh", action="store_true", help="start from step 0; the old folder is moved aside, not deleted"
    )
    choice.add_argument("--resume-with-changes", action="store_true", help="resume even if settings or data differ")
    parser.set_defaults(run=_run_train)


def _run_train(options: argparse.Namespace, argv: list[str]) -> int:
    from dist_seg.config.recipes import given_or_shipped, recipe_path

    files = [given_or_shipped(Path(text)) for text in options.settings if "=" not in text]
    overrides = [text for text in options.settings if "=" in text]
    if not files and not any(text.startswith(("data.shards=", "data.mix=")) for text in overrides):
        files = [recipe_path("synthetic.yaml")]
    if options.max_restarts and options.nproc is None:
        raise ConfigError("--max-restarts needs --nproc; if you call torchrun yourself, use its own --max-restarts")
    if options.nproc is not None and launched_rank() is None:
        return _launch_train(options, argv, files, overrides)
    startup = StartUp()
    from dist_seg.commands.train import train
    from dist_seg.training.prepare import StartOptions

    start = StartOptions(
        print_config=options.print_config,
        dry_run=options.dry_run,
        fresh=options.fresh,
        resume_with_changes=options.resume_with_changes,
        show_plan=not files,  # Without a file of settings the user has not seen what is trained, nor for how long.
    )
    return train(files, overrides, start, startup)


def _launch_train(options: argparse.Namespace, argv: list[str], files: list[Path], overrides: list[str]) -> int:
    from dist_seg.config.load import load_config
    from dist_seg.launchers.torchrun import launch, processes

    if options.max_restarts < 0:
        raise ConfigError(f"--max-restarts {options.max_restarts}: must be 0 or more")
    config = load_config(files, overrides)
    rest = _without(_without(argv, "--nproc"), "--max-restarts")
    return launch(processes(options.nproc), options.max_restarts, rest, config)


def _without(argv: list[str], option: str) -> list[str]:
    """The arguments without `option` and its value."""
    if option in argv:
        at = argv.index(option)
        return argv[:at] + argv[at + 2 :]
    return [text for text in argv if not text.startswith(f"{option}=")]
