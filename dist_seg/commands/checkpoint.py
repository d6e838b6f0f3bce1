"""`dist-seg checkpoint`: lists, shows, verifies, deletes and exports checkpoints."""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dist_seg.checkpoint.export import export_weights
from dist_seg.checkpoint.reading import (
    TENSOR_FILES,
    checkpoint_exists,
    damages,
    glance,
    load_meta,
    tensor_infos,
)
from dist_seg.checkpoint.store import CheckpointStore, Retention
from dist_seg.config.load import to_yaml
from dist_seg.errors import CheckpointError, ConfigError
from dist_seg.runs.folder import RunFolder, config_of_checkpoint, open_run_folder, picked
from dist_seg.runtime.plural import count_of
from dist_seg.runtime.progress_bar import duration
from dist_seg.storage.object_store import is_remote


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What RUN means on the command line: the checkpoints of a run, of a folder or URL, or a single checkpoint."""

    text: str
    run: RunFolder | None = None
    store: CheckpointStore | None = None
    """None if `text` is a single checkpoint."""

    def location(self, which: str) -> str:
        """The checkpoint that `best`, `last` or a step names; always the same if `text` is a single checkpoint."""
        return self.text if self.store is None else picked(self.store, which, self.text)

    def locations(self) -> list[str]:
        if self.store is None:
            return [self.text]
        found = [self.store.path(step) for step in self.store.steps()]
        if not found:
            raise CheckpointError(f"{self.text}: contains no checkpoint; give a run, or a folder of checkpoints")
        return found

    @contextmanager
    def unused(self) -> Iterator[None]:
        """Raises CheckpointError if a process is training in the run: it deletes checkpoints itself."""
        with self.run.locked() if self.run is not None else nullcontext():
            yield


def _target(text: str) -> _Target:
    if not is_remote(text) and (Path(text) / "config.yaml").is_file():
        run = open_run_folder(Path(text), must_exist=True)
        return _Target(text=text, run=run, store=run.checkpoints)
    if checkpoint_exists(text):
        return _Target(text=text)
    return _Target(text=text, store=CheckpointStore(text))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A checkpoint in the list; the names are those of `--json`."""

    step: int | None
    """None if it cannot be read."""
    path: str
    age_s: float | None
    bytes: int
    score: float | None
    best: bool
    last: bool
    problem: str
    """What is wrong with it; empty if it looks whole."""


def run_ls(options: argparse.Namespace) -> int:
    """The command `checkpoint ls`."""
    rows = _rows(_target(options.run_dir))
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return 0
    print(f"{'step':>10}  {'age':>14}  {'size':>10}  {'score':>7}  {'':9}  state")
    for row in rows:
        marks = " ".join(mark for mark, holds in (("best", row.best), ("last", row.last)) if holds)
        score = "-" if row.score is None else f"{row.score:.4f}"
        age = "-" if row.age_s is None else duration(row.age_s)
        print(f"{row.step!s:>10}  {age:>14}  {_size(row.bytes):>10}  {score:>7}  {marks:9}  {row.problem or 'whole'}")
    return 0


def _rows(target: _Target) -> list[_Row]:
    store = target.store
    scores = store.scores() if store is not None else {}
    best = store.best_step() if store is not None else None
    steps = store.steps() if store is not None else []
    rows: list[_Row] = []
    for location in target.locations():
        num_bytes, committed_s, problem = glance(location)
        step = steps[len(rows)] if store is not None else _step_of(location)
        rows.append(
            _Row(
                step=step,
                path=location,
                age_s=max(0.0, time.time() - committed_s) if committed_s else None,
                bytes=num_bytes,
                score=scores.get(step) if step is not None else None,
                best=store is not None and step == best,
                last=store is not None and step == steps[-1],
                problem=problem,
            )
        )
    return rows


def _step_of(location: str) -> int | None:
    try:
        return load_meta(location).step
    except CheckpointError:  # The row names the problem.
        return None


def run_show(options: argparse.Namespace) -> int:
    """The command `checkpoint show`."""
    location = _target(options.run_dir).location(options.checkpoint)
    meta = load_meta(location)
    names = meta.manifest.get("class_names")
    lines = [
        f"checkpoint    {location}",
        f"step          {meta.step}",
        f"format        {meta.format_version}",
        f"world size    {meta.world_size} (you can resume at any)",
        f"data          {meta.manifest.get('task')}, manifest {meta.manifest.get('hash')}",
        f"classes       {', '.join(map(str, names)) if isinstance(names, list) else '-'}",
        f"bad samples   {len(meta.bad_samples)}",
        *(f"              {key}: {reason}" for key, reason in meta.bad_samples.items()),
        f"started from  {meta.origin or 'step 0'}",
        "",
        "config",
        *(f"  {line}" for line in to_yaml(config_of_checkpoint(location)).splitlines()),
    ]
    for part in TENSOR_FILES:
        infos = tensor_infos(location, part)
        total = sum(info.num_bytes for info in infos.values())
        lines += ["", f"{part}: {len(infos)} tensors, {_size(total)}"]
        lines += [
            f"  {name}  {info.dtype}  {'x'.join(map(str, info.shape)) or 'scalar'}" for name, info in infos.items()
        ]
    print("\n".join(lines))
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """The command `checkpoint verify`. Returns 1 if anything is damaged."""
    target = _target(options.run_dir)
    locations = target.locations() if options.checkpoint is None else [target.location(options.checkpoint)]
    problems = [problem for location in locations for problem in damages(location)]
    for problem in problems:
        print(problem)
    print(f"{count_of(len(locations), 'checkpoint')} read, {count_of(len(problems), 'problem')}")
    return 1 if problems else 0


def run_prune(options: argparse.Namespace) -> int:
    """The command `checkpoint prune`."""
    for name, value, least in (("--keep-last", options.keep_last, 1), ("--keep-every", options.keep_every, 0)):
        if value < least:
            raise ConfigError(f"{name} {value}: must be at least {least}")
    target = _target(options.run_dir)
    if target.store is None:
        raise CheckpointError(f"{target.text}: is a single checkpoint; give the run, or the folder that contains it")
    target.locations()  # Raises for a wrong path, which would look like a folder with nothing to delete.
    retention = Retention(keep_last=options.keep_last, keep_best=options.keep_best, keep_every_steps=options.keep_every)
    if options.dry_run:
        steps = target.store.superfluous(retention)
    else:
        with target.unused():
            steps = target.store.prune(retention)
    what = "would be deleted" if options.dry_run else "deleted"
    print(f"{what}: {', '.join(map(str, steps)) or 'nothing'}; kept: {', '.join(map(str, _left(target.store, steps)))}")
    return 0


def _left(store: CheckpointStore, deleted: list[int]) -> list[int]:
    return [step for step in store.steps() if step not in deleted]


def run_export(options: argparse.Namespace) -> int:
    """The command `checkpoint export`."""
    location = _target(options.run_dir).location(options.checkpoint)
    weights = export_weights(location, options.out, options.weights, to_yaml(config_of_checkpoint(location)))
    print(f"{options.out}: {weights} weights of step {load_meta(location).step}, {_size(options.out.stat().st_size)}")
    return 0


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
