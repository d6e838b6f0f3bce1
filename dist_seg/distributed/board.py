"""What ranks tell each other outside of collectives: where each one is, and what has gone wrong first.

It lies in the store through which the ranks have met, read and written over a connection of its own: a call never waits
for one of the process group. Under torchrun the store lives in the launcher's process, as long as the launch; elsewhere
in rank 0's.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch._C._distributed_c10d import Store

from dist_seg.distributed.collectives import barrier
from dist_seg.distributed.position import Position, described
from dist_seg.distributed.rendezvous import Start
from dist_seg.distributed.world import World
from dist_seg.runtime.documents import decode

_FINAL = "dist_seg/final"
_WHERE = "the ranks' store"


@dataclass(frozen=True, kw_only=True)
class FirstCause:
    """What ended a run, in the words of the rank that was the first to tell."""

    kind: Literal["error", "stuck", "lost"]
    """error: a rank has raised; stuck: others waited for it in vain; lost: it has ended without a word."""
    ranks: tuple[int, ...]
    """Whose fault it is; empty where that cannot be told."""
    text: str
    trace: str = ""
    """The traceback, where there is one."""

    @property
    def words(self) -> str:
        named = self.kind != "error" or self.text.startswith(f"rank {self.ranks[0]} ")
        return self.text if named else f"rank {self.ranks[0]}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class RankPosition:
    """Where a rank was when it last told."""

    beat: int
    """Rises as long as the rank lives."""
    step: int
    phase: str
    collectives: int
    ended: bool
    """The rank has left in order."""

    @property
    def words(self) -> str:
        return described(self.phase, self.step)


@dataclass(frozen=True, kw_only=True)
class _FinalError:
    """An error that every further start would meet again."""

    starts_before: int
    text: str


class Board:
    """One start of the ranks. Every method but `open_board` may be called from any thread, and raises RuntimeError
    (torch's DistError is one) where the store does not answer any more."""

    def __init__(self, store: Store, *, world: World, start: Start) -> None:
        self._store, self._world, self._prefix = store, world, f"{start.name}/board"
        self._outlives_ranks = start.in_launcher
        self._beats = 0
        self.starts_before = start.number - 1
        """How often this launch has started its ranks before, for whatever reason: torchrun does not count the
        restarts that it makes because machines have come or gone."""

    @property
    def lives_here(self) -> bool:
        """The store ends with this process."""
        return self._world.is_main and not self._outlives_ranks

    def tell(self, position: Position, *, ended: bool = False) -> None:
        self._beats += 1
        told = RankPosition(
            beat=self._beats,
            step=position.step,
            phase=position.phase,
            collectives=position.collectives,
            ended=ended,
        )
        self._store.set(f"{self._prefix}/position/{self._world.rank}", _encoded(told))

    def positions(self) -> list[RankPosition]:
        """Of all ranks, in their order."""
        keys = [f"{self._prefix}/position/{rank}" for rank in range(self._world.size)]
        return [decode(value, RankPosition, _WHERE) for value in self._store.multi_get(keys)]

    def publish(self, cause: FirstCause) -> FirstCause:
        """Tells a cause to all ranks; returns the first one that any rank has told."""
        told = self._store.compare_set(f"{self._prefix}/cause", "", _encoded(cause))
        return decode(told, FirstCause, _WHERE)

    def cause(self) -> FirstCause | None:
        key = f"{self._prefix}/cause"
        return decode(self._store.get(key), FirstCause, _WHERE) if self._store.check([key]) else None

    def end_for_good(self, text: str) -> None:
        """Whatever starts the ranks again within this launch, `final_error` tells them that it is of no use."""
        self._store.compare_set(_FINAL, "", _encoded(_FinalError(starts_before=self.starts_before, text=text)))

    def final_error(self) -> str | None:
        """What an earlier start was ended by for good; not what a peer of this one has met a moment ago."""
        told = decode(self._store.get(_FINAL), _FinalError, _WHERE) if self._store.check([_FINAL]) else None
        return told.text if told is not None and told.starts_before < self.starts_before else None


def _encoded(document: RankPosition | FirstCause | _FinalError) -> str:
    return json.dumps(dataclasses.asdict(document))


def open_board(world: World, start: Start, position: Position) -> Board:
    """The board of all ranks, with a position of every one on it. A collective; needs the process group."""
    board = Board(start.connection(), world=world, start=start)
    board.tell(position)
    barrier()
    return board


def behind(positions: Sequence[RankPosition]) -> tuple[int, ...]:
    """The ranks that have not entered the collective that others are in."""
    most = max(position.collectives for position in positions)
    return tuple(rank for rank, position in enumerate(positions) if position.collectives < most)


def silent(before: Sequence[RankPosition], after: Sequence[RankPosition]) -> tuple[int, ...]:
    """The ranks that have told nothing between two looks at the board, although they have not left in order."""
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(rank for rank, (old, new) in pairs if new.beat == old.beat and not new.ended)
