"""A run's folder: its files, and what a start finds in it.

config.yaml  checkpoints/  events.jsonl  result.json  report.html  pictures.png  outcome.json  ports.json
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dist_seg.checkpoint.reading import load_meta
from dist_seg.checkpoint.state import CheckpointMeta
from dist_seg.checkpoint.store import CheckpointStore
from dist_seg.config.load import config_from_tree, differences, load_config
from dist_seg.config.schema import Config
from dist_seg.errors import CheckpointError, ConfigError
from dist_seg.storage.files import file_lock, path_errors, write_whole
from dist_seg.storage.object_store import is_remote

# Settings that a resumed run may change without changing the training.
_HARMLESS = (
    "run.",
    "telemetry.",
    "checkpoint.",
    "engine.",
    "eval.",
    "data.num_threads",
    "data.prefetch",
    "data.max_bad_samples",
    "data.max_bad_shards",
    "data.retry_s",
    "train.eval_interval_steps",
    "train.num_threads",
    "train.timeout_s",
    "train.max_nonfinite_steps",
)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths in the folder of one run."""

    path: Path
    checkpoint_dir: str | None = None
    """`checkpoint.dir` of the configuration."""

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def pictures_file(self) -> Path:
        """A sheet of the worst and best predictions."""
        return self.path / "pictures.png"

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.checkpoint_dir or self.path / "checkpoints")

    def stored_config(self) -> Config | None:
        """The configuration of the run in the folder, if any; taken from a checkpoint if only checkpoints are left."""
        with path_errors(self.config_file, "cannot be read", CheckpointError):
            there = self.config_file.is_file()
        if there:
            return load_config([self.config_file])
        meta = newest_meta(self.checkpoints)
        return config_from_tree(meta.config, f"{self.checkpoints.path(meta.step)}/meta.json") if meta else None

    def write_json(self, name: str, content: Mapping[str, object]) -> Path:
        """Writes a small file completely or not at all. Raises CheckpointError if it cannot be written."""
        return self.write_text(name, json.dumps(content, indent=1) + "\n")

    def write_text(self, name: str, content: str) -> Path:
        """See `write_json`."""
        return write_whole(self.path / name, content, CheckpointError)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Prevents a second process from training in the folder, or from writing to the same local checkpoint folder.

        Raises CheckpointError if another process already does, or if no run can be written.
        """
        places = [(self.path / "run.lock", "trains in this folder", "run.dir")]
        if self.checkpoint_dir is not None and not is_remote(self.checkpoint_dir):
            lock = Path(self.checkpoints.root) / "checkpoints.lock"
            places.append((lock, "writes its checkpoints there", "checkpoint.dir"))
        with ExitStack() as stack:
            for lock, doing, setting in places:
                remedy = f"give another {setting}"
                with path_errors(lock.parent, "no run can be written there", CheckpointError, f"; {remedy}"):
                    lock.parent.mkdir(parents=True, exist_ok=True)
                    held = stack.enter_context(file_lock(lock))
                if not held:
                    raise CheckpointError(f"{lock.parent}: another process {doing}; wait for its end, or {remedy}")
            yield

    def check_writable(self) -> None:
        """Raises CheckpointError if the folder cannot be created or written; leaves nothing behind."""
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        with path_errors(self.path, "no run can be written there", CheckpointError, "; give another run.dir"):
            tempfile.TemporaryFile(dir=there).close()

    def move_aside(self) -> Path | None:
        """Renames the folder unless it is empty, so that a new run can begin. Nothing is deleted.

        Raises CheckpointError if another process trains in it, or if it cannot be renamed.
        """
        with path_errors(self.path, "cannot be moved aside", CheckpointError, "; give another run.dir"):
            if not self.path.exists() or not any(self.path.iterdir()):
                return None
            with ExitStack() as stack:
                stack.enter_context(self.locked())
                for number in range(1, 10_000):
                    aside = self.path.with_name(f"{self.path.name}.old-{number}")
                    if not aside.exists():
                        if sys.platform == "win32":
                            stack.close()  # Windows renames no folder with an open file in it, such as the lock.
                        self.path.rename(aside)
                        return aside
        raise ConfigError(f"{self.path}: there are 9999 older runs beside it; delete some")


def open_run_folder(path: Path, *, must_exist: bool = False) -> RunFolder:
    """The folder of a run. must_exist: raise CheckpointError unless there is a run."""
    folder = RunFolder(path=path)
    with path_errors(path, "cannot be read", CheckpointError):
        is_run = folder.config_file.is_file()
    if must_exist and not is_run:
        raise CheckpointError(f"{path}: there is no run here (config.yaml is missing); give a folder that train wrote")
    stored = folder.stored_config() if is_run else None
    return RunFolder(path=path, checkpoint_dir=stored.checkpoint.dir) if stored else folder


def check_same_run(folder: RunFolder, config: Config, manifest_hash: str) -> None:
    """Raises ConfigError with the list of differences if the folder holds a run of another configuration or data."""
    old = folder.stored_config()
    meta = newest_meta(folder.checkpoints)
    if old is not None and meta is None:
        _check_not_left_behind(folder, old)
    if old is None or meta is None:  # There is no training yet that could be mixed up.
        return
    changed = [
        f"  {key}: {before!r} there, {now!r} here"
        for key, before, now in differences(_without_places(old), _without_places(config))
        if not key.startswith(_HARMLESS)
    ]
    if meta.manifest.get("hash") != manifest_hash:
        changed.append(f"  data's manifest: {str(meta.manifest.get('hash'))[:12]} there, {manifest_hash[:12]} here")
    if changed:
        raise ConfigError(
            f"{folder.path} holds a run with other settings:\n" + "\n".join(changed) + "\nGive another run.dir, "
            "--fresh to start a new run (the old folder is moved aside), or --resume-with-changes to use the new ones"
        )


def _without_places(config: Config) -> Config:
    """The location of data may change: the hash of the manifest identifies the data."""
    mix = tuple(dataclasses.replace(member, shards="") for member in config.data.mix)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, shards=None, mix=mix))


def _check_not_left_behind(folder: RunFolder, old: Config) -> None:
    """Raises ConfigError if the run's checkpoints are elsewhere than in `checkpoint.dir`."""
    before = RunFolder(path=folder.path, checkpoint_dir=old.checkpoint.dir).checkpoints
    if before.root != folder.checkpoints.root and before.steps():
        raise ConfigError(
            f"{folder.path} holds a run whose checkpoints are in {before.root}, and {folder.checkpoints.root} has "
            "none. Copy them there, give the old checkpoint.dir, or --fresh to start a new run"
        )


def newest_meta(checkpoints: CheckpointStore) -> CheckpointMeta | None:
    """The metadata of the newest checkpoint that can be read; None if there is none."""
    for step in reversed(checkpoints.steps()):
        try:
            return load_meta(checkpoints.path(step))
        except CheckpointError:
            continue  # Reported when a checkpoint is chosen to start from.
    return None


def pick_checkpoint(folder: RunFolder, which: str) -> str:
    """See `picked`, for the checkpoints of a run."""
    return picked(folder.checkpoints, which, str(folder.path))


def picked(store: CheckpointStore, which: str, run: str) -> str:
    """Path or URL of the checkpoint that `best`, `last` or a step number selects. Raises CheckpointError otherwise.

    run: how errors call what was looked into.
    """
    steps: Sequence[int] = store.steps()
    if not steps:
        raise CheckpointError(f"{run}: the run has no checkpoint yet")
    match which:
        case "last":
            return store.path(steps[-1])
        case "best":
            best = store.best_step()
            if best is None:
                raise CheckpointError(f"{run}: no checkpoint of the run was evaluated; use --checkpoint last")
            return store.path(best)
    if not which.isdigit() or int(which) not in steps:
        raise CheckpointError(f"{run}: no checkpoint {which!r}; there are: best, last, {', '.join(map(str, steps))}")
    return store.path(int(which))


def config_of_checkpoint(location: str) -> Config:
    """The resolved configuration that a checkpoint was trained with."""
    return config_from_tree(load_meta(location).config, f"{location}/meta.json")


def run_dir_of(config: Config) -> Path:
    """`run.dir`, or `runs/NAME` with the name of the data."""
    if config.run.dir is not None:
        return Path(config.run.dir)
    if not config.data.location:
        raise ConfigError(
            "data.shards is not set: give the folder that `dist-seg pack` wrote, such as data.shards=data/mine"
        )
    name = "+".join(member.name for member in config.data.mix) or config.data.location.rstrip("/").rsplit("/", 1)[-1]
    return Path("runs") / (name if config.data.folds is None else f"{name}-{config.data.scored_split}")


def written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
