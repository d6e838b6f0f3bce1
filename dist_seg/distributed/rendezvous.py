"""How the ranks of one start find each other in a store that may outlive them.

torchrun keeps one store for the whole launch, and torch writes the addresses of a process group under the same keys at
every start: a rank that is faster than its peer would read the address of a dead one. torchrun's count of restarts
does not help, as it does not rise when machines join or leave. So the ranks first agree on a name for their start.
"""

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from dist_seg.distributed.world import World, named_ranks
from dist_seg.errors import RunFailedError
from dist_seg.runtime.documents import decode

_POLL_S = 0.02
_ANSWER_S = 30.0
_STARTS = "dist_seg/starts"
_OFFER = "dist_seg/offer"


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """The name that rank 0 offers to the others."""

    name: str
    number: int
    heard: dict[str, str]
    """The nonce of each rank that rank 0 has heard from, by rank."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of all ranks."""

    name: str
    number: int
    """Counted from 1 within the launch; always 1 if the store ends with the ranks."""
    store: Store
    """Only for torch's process group, which blocks on it."""
    in_launcher: bool
    """The store is in the launcher and outlives the ranks; otherwise it is in rank 0."""

    def connection(self) -> TCPStore:
        """Another connection to the whole store, which no other user blocks."""
        return _client(timedelta(seconds=_ANSWER_S))


def meet(world: World, timeout_s: float) -> Start:
    """Waits for all ranks of this start. Raises RunFailedError naming those that do not arrive in time."""
    timeout = timedelta(seconds=timeout_s)
    in_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = _host(timeout) if world.is_main and not in_launcher else _client(timeout)
    deadline = time.monotonic() + timeout_s
    nonce = uuid.uuid4().hex
    store.set(_hello(world.rank), nonce)
    name, number = _offer(store, world, deadline) if world.is_main else _accept(store, world, nonce, deadline)
    return Start(name=name, number=number, store=PrefixStore(name, store), in_launcher=in_launcher)


def _host(timeout: timedelta) -> TCPStore:
    return TCPStore(*_address(), is_master=True, wait_for_workers=False, timeout=timeout, multi_tenant=True)


def _client(timeout: timedelta) -> TCPStore:
    return TCPStore(*_address(), is_master=False, wait_for_workers=False, timeout=timeout)


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _hello(rank: int) -> str:
    return f"dist_seg/hello/{rank}"


def _agreed(rank: int) -> str:
    return f"dist_seg/agreed/{rank}"


def _offer(store: TCPStore, world: World, deadline: float) -> tuple[str, int]:
    """Rank 0 offers a name to all ranks that it has heard from, until all have agreed to it."""
    number = store.add(_STARTS, 1)
    name = f"dist_seg/start-{number}-{uuid.uuid4().hex[:8]}"
    offered: dict[str, str] = {}
    while True:
        # This may include nonces of an earlier start: those ranks will not agree.
        heard = {str(rank): _get(store, _hello(rank)) for rank in range(world.size)}
        if heard != offered:
            store.set(_OFFER, json.dumps(asdict(_Offer(name=name, number=number, heard=heard))))
            offered = heard
        missing = [rank for rank in range(1, world.size) if _get(store, _agreed(rank)) != name]
        if not missing:
            return name, number
        _wait(deadline, f"{named_ranks(missing)} did not arrive")


def _accept(store: TCPStore, world: World, nonce: str, deadline: float) -> tuple[str, int]:
    """Another rank takes a name that is offered to itself, not to the rank of its number in an earlier start."""
    while True:
        text = _get(store, _OFFER)
        offer = decode(text, _Offer, "the ranks' store") if text else None
        if offer is not None and offer.heard.get(str(world.rank)) == nonce:
            store.set(_agreed(world.rank), offer.name)
            return offer.name, offer.number
        _wait(deadline, "rank 0 did not arrive")


def _get(store: TCPStore, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _wait(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise RunFailedError(f"the process group could not be formed: {problem} within train.timeout_s")
    time.sleep(_POLL_S)
