"""The checkpoints of a run, in a local folder or an object store: saving, choosing, scoring, keeping and deleting them.

    checkpoints/step-00001000/...   checkpoints/scores.json   checkpoints/superseded-1/step-...

`checkpoint.backends` says where they are stored and how one is committed, `checkpoint.reading` what one contains.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dist_seg.checkpoint.backends import CheckpointBackend, LocalBackend, ObjectStoreBackend, checkpoint_errors
from dist_seg.checkpoint.reading import STEP_NAME, TENSOR_FILES, verify_checkpoint
from dist_seg.checkpoint.state import TrainingState
from dist_seg.checkpoint.tensors import encoded
from dist_seg.errors import CheckpointError
from dist_seg.runtime.documents import decode
from dist_seg.storage.object_store import is_remote, open_storage

_log = logging.getLogger(__name__)
_SCORES_NAME = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints are kept: the newest `keep_last`, the best, and those at multiples of `keep_every_steps`."""

    keep_last: int
    keep_best: bool
    keep_every_steps: int


class CheckpointStore:
    """The checkpoints of one run, in `root`: a local folder, or the URL of a folder in an object store.

    Raises CheckpointError for a URL that cannot be written to.
    """

    def __init__(self, root: str | Path) -> None:
        with checkpoint_errors():
            self._backend: CheckpointBackend = (
                ObjectStoreBackend(str(root)) if is_remote(root) else LocalBackend(Path(open_storage(root).url))
            )

    @property
    def root(self) -> str:
        """Path or URL."""
        return self._backend.url

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending. Raises CheckpointError if they cannot be listed."""
        matches = [STEP_NAME.fullmatch(name) for name in self._backend.names()]
        return sorted(int(match.group(1)) for match in matches if match)

    def path(self, step: int) -> str:
        """The path or URL of a step's checkpoint."""
        return f"{self.root}/{_name(step)}"

    def holds(self, location: str) -> bool:
        """Whether a path or URL names a checkpoint of this store."""
        parent, _, name = open_storage(location).url.rpartition("/")
        return parent == self.root and STEP_NAME.fullmatch(name) is not None

    def save(self, state: TrainingState) -> str:
        """Writes and commits a checkpoint. Raises CheckpointError with the cause; older checkpoints are not touched."""
        final = self.path(state.meta.step)
        try:
            self._backend.commit(_name(state.meta.step), _contents(state))
        except OSError as error:
            raise CheckpointError(
                f"{final}: the checkpoint could not be written: {error.strerror or error}. Earlier checkpoints are "
                "whole; free disk space or fix the folder's permissions, then run the same command again"
            ) from error
        except CheckpointError as error:
            raise CheckpointError(
                f"{final}: the checkpoint could not be written: {error}. Earlier checkpoints are whole"
            ) from error
        return final

    def begin_at(self, step: int) -> list[int]:
        """Sets checkpoints and scores after `step` aside in `superseded-N/`, because a different history starts here.

        Returns their steps. Nothing is deleted; retention and `best_step` no longer see them. Raises CheckpointError
        if that is not possible.
        """
        beyond = [other for other in self.steps() if other > step]
        scores = self.scores()
        if beyond:
            self._backend.set_aside([_name(other) for other in beyond])
        if any(other > step for other in scores):
            self._write_scores({other: score for other, score in scores.items() if other <= step})
        return beyond

    def record_score(self, step: int, score: float) -> None:
        """Records the score of a step's weights, for `best_step` and so that no evaluation is repeated.

        Raises CheckpointError if it cannot be written.
        """
        self._write_scores({**self.scores(), step: score})

    def _write_scores(self, scores: Mapping[int, float]) -> None:
        self._backend.write_text(_SCORES_NAME, json.dumps(scores))

    def scores(self) -> dict[int, float]:
        """The recorded scores by step."""
        text = self._backend.read_text(_SCORES_NAME)
        if text is None:
            return {}
        where = f"{self.root}/{_SCORES_NAME}"
        try:
            return decode(text, dict[int, float], where, error=CheckpointError)
        except CheckpointError as error:
            reason = f"unreadable: {error.reason}; delete it, and the best checkpoint is forgotten"
            raise CheckpointError(reason, where=where) from error

    def best_step(self) -> int | None:
        """The step with the highest score among the existing checkpoints."""
        there = set(self.steps())
        scores = {step: score for step, score in self.scores().items() if step in there and score == score}
        return max(scores, key=lambda step: scores[step]) if scores else None

    def superfluous(self, retention: Retention) -> list[int]:
        """Steps that the policy does not keep."""
        steps = self.steps()
        kept = set(steps[-retention.keep_last :])
        if retention.keep_best and (best := self.best_step()) is not None:
            kept.add(best)
        if retention.keep_every_steps:
            kept.update(step for step in steps if step % retention.keep_every_steps == 0)
        return [step for step in steps if step not in kept]

    def prune(self, retention: Retention) -> list[int]:
        """Deletes what the policy does not keep; returns the deleted steps. Raises CheckpointError if it cannot."""
        deleted = self.superfluous(retention)
        for step in deleted:
            self._backend.remove(_name(step))
        return deleted

    def newest_whole(self) -> str | None:
        """The path or URL of the newest checkpoint whose checksums match, or None if there is no checkpoint.

        Damaged ones are named in the log and skipped. Raises CheckpointError if all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                verify_checkpoint(self.path(step))
            except CheckpointError as error:
                _log.warning("skipped a damaged checkpoint: %s", error)
            else:
                return self.path(step)
        if steps:
            damaged = "its only checkpoint is" if len(steps) == 1 else f"all of its {len(steps)} checkpoints are"
            raise CheckpointError(f"{damaged} damaged; restore one, or start again with --fresh", where=self.root)
        return None


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _contents(state: TrainingState) -> Iterator[tuple[str, Iterator[bytes | memoryview]]]:
    for name in TENSOR_FILES:
        yield f"{name}.safetensors", encoded(getattr(state, name))
    yield "meta.json", iter([state.meta.to_json()])
