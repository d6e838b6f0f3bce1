"""Records samples and shards that turn out bad in training, alike on all ranks, and limits their number."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from dist_seg.config.schema import DataConfig
from dist_seg.data.codecs.encoded import BadSample, BadShard
from dist_seg.data.shards.bad_shards import check_bad_shards
from dist_seg.distributed.collectives import gather_json
from dist_seg.distributed.world import World
from dist_seg.engine.run_progress import Progress
from dist_seg.errors import DataError
from dist_seg.telemetry.events import BadSampleFound, BadShardFound, Event

_log = logging.getLogger(__name__)


class BadDataRecord:
    """Keeps the bad data in `progress` the same on every rank. The `record_...` methods are collectives.

    shard_samples: number of samples in each shard of the training split, by name.
    """

    def __init__(
        self,
        *,
        data: DataConfig,
        shard_samples: Mapping[str, int],
        world: World,
        progress: Progress,
        emit: Callable[[Event], None],
    ) -> None:
        self._data, self._shard_samples, self._world = data, shard_samples, world
        self._progress, self._emit = progress, emit

    def announce(self) -> None:
        """Reports the shards that are known to be bad when training begins."""
        self._tell(self._progress.bad_shards)

    def record_shards(self, own: Sequence[BadShard]) -> None:
        """own: bad shards met by this rank's lanes. Raises DataError for more than `data.max_bad_shards`."""
        found = gather_json([[shard.name, shard.reason] for shard in own])
        known = self._progress.bad_shards
        new = {name: reason for part in cast(list[list[tuple[str, str]]], found) for name, reason in part}
        new = {name: reason for name, reason in sorted(new.items()) if name not in known}
        known.update(new)
        check_bad_shards(known, self._data.max_bad_shards, len(self._shard_samples), self._data.location)
        self._tell(new)

    def record_samples(self, own: Sequence[BadSample]) -> None:
        """own: bad samples met by this rank's lanes. Raises DataError for more than `data.max_bad_samples`."""
        step, known = self._progress.step + 1, self._progress.bad_samples
        for sample in own:
            self._emit(BadSampleFound(step=step, key=sample.key, shard=sample.shard, reason=sample.reason))
        for found in gather_json([[sample.key, sample.shard, sample.reason] for sample in own]):
            for key, shard, reason in cast(list[tuple[str, str, str]], found):
                if key not in known and self._world.is_main:
                    _log.warning("step %d: sample %s of %s was replaced: %s", step, key, shard, reason)
                known[key] = reason
        if len(known) > self._data.max_bad_samples:
            named = ", ".join(sorted(known)[:5])
            error = DataError(
                f"{len(known)} training samples could not be decoded, more than "
                f"data.max_bad_samples={self._data.max_bad_samples} (among them {named}). Run `dist-seg verify "
                f"{self._data.location}`, pack the data again, or raise data.max_bad_samples"
            )
            error.shared = True
            raise error

    def _tell(self, shards: Mapping[str, str]) -> None:
        if not self._world.is_main:
            return
        step = self._progress.step
        for name, reason in shards.items():
            samples = self._shard_samples[name]
            _log.warning("after step %d: the %d samples of %s are replaced: %s", step, samples, name, reason)
            self._emit(BadShardFound(step=step, shard=name, reason=reason, samples=samples))
