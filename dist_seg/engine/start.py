"""Finds the checkpoint that all ranks start from, loads it, and prepares the run folder."""

import logging

from dist_seg.checkpoint.reading import load_meta, verify_checkpoint
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.config.load import to_yaml
from dist_seg.config.schema import Config
from dist_seg.data.plan.plan import Plan
from dist_seg.data.shards.bad_shards import check_bad_shards
from dist_seg.data.view.data_view import DataView
from dist_seg.distributed.collectives import gather_json, on_main
from dist_seg.distributed.world import World
from dist_seg.engine.build import Trainee, build_trainee
from dist_seg.engine.out_of_memory import memory_explained
from dist_seg.engine.run_progress import Progress
from dist_seg.errors import ConfigError
from dist_seg.runs.folder import RunFolder
from dist_seg.runtime.startup import StartUp
from dist_seg.storage.object_store import open_storage

_log = logging.getLogger(__name__)


def find_checkpoint(config: Config, checkpoints: CheckpointStore, *, restarted: bool) -> str | None:
    """Path or URL of the checkpoint that `checkpoint.resume` selects; None to start without one.

    Raises CheckpointError for one that is not whole.
    restarted: the launcher restarted the ranks, so the run's own newest checkpoint comes first.
    """
    if restarted and checkpoints.steps():
        return checkpoints.newest_whole()
    match config.checkpoint.resume:
        case "auto":
            return checkpoints.newest_whole()
        case "none":
            return None
        case path:
            # The same command again, after a preemption for example: keep what the run has done since.
            if checkpoints.steps() and load_meta(checkpoints.path(checkpoints.steps()[-1])).origin == _origin(path):
                return checkpoints.newest_whole()
            verify_checkpoint(path)
            return path


def _origin(checkpoint: str) -> str:
    """The name that a run's checkpoints give to the checkpoint that it began from."""
    return open_storage(checkpoint).url


def started(
    config: Config,
    world: World,
    folder: RunFolder,
    view: DataView,
    plan: Plan,
    startup: StartUp,
) -> tuple[Trainee, int | None]:
    """The model in its engine at its first step, and that step if the run's own checkpoint holds it, else None."""
    checkpoint = _agreed_checkpoint(config, folder, restarted=world.restarts > 0)
    startup.done("restore")
    with memory_explained(config, world, lambda: "a first micro-batch"):
        trainee = build_trainee(config, view, checkpoint, world, lanes=plan.lanes, startup=startup)
    progress = trainee.progress
    own = checkpoint is not None and folder.checkpoints.holds(checkpoint)
    if checkpoint is not None and not own:
        if progress.step == config.train.max_steps:
            raise ConfigError(
                f"{checkpoint} is at step {progress.step}, and train.max_steps={progress.step}: no step is left. Steps "
                "are counted on from the checkpoint's; raise train.max_steps"
            )
        progress.origin = _origin(checkpoint)
    _check_same_start(progress, view)
    training_shards = shard_samples(config, view)
    known_bad = {name: reason for name, reason in view.bad_shards.items() if name in training_shards}
    # In a checkpoint of other data, the same names belong to other shards.
    of_other_data = checkpoint is not None and load_meta(checkpoint).manifest.get("hash") != view.hash
    progress.bad_shards = {**known_bad, **({} if of_other_data else progress.bad_shards)}
    check_bad_shards(progress.bad_shards, config.data.max_bad_shards, len(training_shards), view.url)
    return trainee, progress.step if own else None


def shard_samples(config: Config, view: DataView) -> dict[str, int]:
    """Number of samples in each shard of the training split, by name."""
    split = view.split(config.data.train_split)
    return {shard.name: samples for shard, samples in zip(split.shards, split.shard_samples, strict=True)}


def _agreed_checkpoint(config: Config, folder: RunFolder, *, restarted: bool) -> str | None:
    """The checkpoint that rank 0 finds: ranks that looked for themselves might find different ones."""
    found = on_main(lambda: str(find_checkpoint(config, folder.checkpoints, restarted=restarted) or ""))
    return str(found) if found else None


def claim(folder: RunFolder, config: Config, step: int) -> list[int]:
    """Makes the folder this run's: writes the configuration and sets checkpoints of later steps aside.

    Returns the steps whose weights have a score already.
    """
    superseded = folder.checkpoints.begin_at(step)
    if superseded:
        _log.warning("checkpoints of steps %s were set aside: this run continues from step %d", superseded, step)
    folder.write_text("config.yaml", to_yaml(config))
    return list(folder.checkpoints.scores())


def _check_same_start(progress: Progress, view: DataView) -> None:
    starts = gather_json([progress.step, view.hash])
    if any(start != starts[0] for start in starts):
        raise ConfigError(
            f"ranks would start from different steps or data (step, manifest by rank: {starts}); run.dir and "
            "data.shards must be the same for all of them"
        )
