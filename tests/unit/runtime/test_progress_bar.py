"""Progress that several threads share."""

from concurrent.futures import ThreadPoolExecutor

from dist_seg.runtime.progress_bar import SharedCount


def test_work_of_several_threads_adds_up() -> None:
    told: list[tuple[int, int]] = []
    count = SharedCount(400, lambda done, total: told.append((done, total)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count.add, [4] * 100))
    assert told == [(done, 400) for done in range(4, 404, 4)]


def test_nobody_has_to_be_told() -> None:
    SharedCount(400, None).add(4)
