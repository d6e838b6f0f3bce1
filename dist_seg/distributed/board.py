"""What ranks tell each other outside of collectives: the position of each rank, and the first thing that went wrong.

The board is in the store through which the ranks met. It has a connection of its own, so a call never waits for one of
the process group. Under torchrun the store is in the launcher's process and lives as long as the launch; otherwise it
is in rank 0's process.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch._C._distributed_c10d import Store

from dist_seg.distributed.collectives import barrier
from dist_seg.distributed.position import Position, describe
from dist_seg.distributed.rendezvous import Start
from dist_seg.distributed.world import World
from dist_seg.runtime.documents import decode

_FINAL = "dist_seg/final"
_WHERE = "the ranks' store"


@dataclass(frozen=True, kw_only=True)
class FirstCause:
    """What ended a run, as told by the first rank that reported it."""

    kind: Literal["error", "stuck", "lost"]
    """error: a rank raised; stuck: others waited for it in vain; lost: it exited without reporting anything."""
    ranks: tuple[int, ...]
    """The ranks at fault; empty if unknown."""
    text: str
    trace: str = ""
    """The traceback, if there is one."""

    @property
    def message(self) -> str:
        named = self.kind != "error" or self.text.startswith(f"rank {self.ranks[0]} ")
        return self.text if named else f"rank {self.ranks[0]}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class RankPosition:
    """Where a rank was when it last reported."""

    beat: int
    """Rises with every report, as long as the rank lives."""
    step: int
    phase: str
    collectives: int
    ended: bool
    """The rank left in order."""

    @property
    def description(self) -> str:
        return describe(self.phase, self.step)


@dataclass(frozen=True, kw_only=True)
class _FinalError:
    """An error that every restart would meet again."""

    starts_before: int
    text: str


class Board:
    """The board of one start of the ranks. Its methods may be called from any thread, and raise RuntimeError (torch's
    DistError is one) if the store no longer answers."""

    def __init__(self, store: Store, *, world: World, start: Start) -> None:
        self._store, self._world, self._prefix = store, world, f"{start.name}/board"
        self._outlives_ranks = start.in_launcher
        self._beats = 0
        self.starts_before = start.number - 1
        """How often this launch started its ranks before, for any reason: torchrun does not count the restarts that it
        makes when machines join or leave."""

    @property
    def lives_here(self) -> bool:
        """Whether the store ends with this process."""
        return self._world.is_main and not self._outlives_ranks

    def tell(self, position: Position, *, ended: bool = False) -> None:
        self._beats += 1
        report = RankPosition(
            beat=self._beats,
            step=position.step,
            phase=position.phase,
            collectives=position.collectives,
            ended=ended,
        )
        self._store.set(f"{self._prefix}/position/{self._world.rank}", _encoded(report))

    def positions(self) -> list[RankPosition]:
        """The positions of all ranks, by rank."""
        keys = [f"{self._prefix}/position/{rank}" for rank in range(self._world.size)]
        return [decode(value, RankPosition, _WHERE) for value in self._store.multi_get(keys)]

    def publish(self, cause: FirstCause) -> FirstCause:
        """Tells a cause to all ranks; returns the first cause that any rank told."""
        told = self._store.compare_set(f"{self._prefix}/cause", "", _encoded(cause))
        return decode(told, FirstCause, _WHERE)

    def cause(self) -> FirstCause | None:
        key = f"{self._prefix}/cause"
        return decode(self._store.get(key), FirstCause, _WHERE) if self._store.check([key]) else None

    def end_for_good(self, text: str) -> None:
        """Makes `final_error` return this text to all later starts within this launch."""
        self._store.compare_set(_FINAL, "", _encoded(_FinalError(starts_before=self.starts_before, text=text)))

    def final_error(self) -> str | None:
        """The error that ended an earlier start for good; not one that a peer of this start just met."""
        told = decode(self._store.get(_FINAL), _FinalError, _WHERE) if self._store.check([_FINAL]) else None
        return told.text if told is not None and told.starts_before < self.starts_before else None


def _encoded(document: RankPosition | FirstCause | _FinalError) -> str:
    return json.dumps(dataclasses.asdict(document))


def open_board(world: World, start: Start, position: Position) -> Board:
    """Opens the board of all ranks; every rank has reported a position. A collective; needs the process group."""
    board = Board(start.connection(), world=world, start=start)
    board.tell(position)
    barrier()
    return board


def behind(positions: Sequence[RankPosition]) -> tuple[int, ...]:
    """Ranks that have not entered the collective that others are in."""
    most = max(position.collectives for position in positions)
    return tuple(rank for rank, position in enumerate(positions) if position.collectives < most)


def silent(before: Sequence[RankPosition], after: Sequence[RankPosition]) -> tuple[int, ...]:
    """Ranks that reported nothing between two looks at the board and did not leave in order."""
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(rank for rank, (old, new) in pairs if new.beat == old.beat and not new.ended)
