"""What one start of the ranks leaves to the next on the board."""

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it at run time

from dist_seg.distributed.board import Board
from dist_seg.distributed.rendezvous import Start
from dist_seg.distributed.world import World


def test_what_ends_a_launch_for_good_is_told_to_later_starts_and_not_to_peers_in_the_same() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    world = World(rank=0, size=2, local_rank=0, local_size=2)
    first, second, third = (
        Board(store, world=world, start=Start(name=f"start-{number}", number=number, store=store, in_launcher=True))
        for number in (1, 2, 3)
    )
    assert first.final_error() is None
    second.end_for_good("model.name: no such model")
    assert second.final_error() is None
    assert third.final_error() == "model.name: no such model"
    third.end_for_good("told again, with more words around it")
    assert third.final_error() == "model.name: no such model"
