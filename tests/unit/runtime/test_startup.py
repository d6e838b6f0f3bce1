"""The account of the time before the first step."""

import subprocess
import sys
import time

import pytest

from dist_seg.runtime.startup import StartUp


class SetClock:
    """Tells the time that it was set to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


def test_parts_have_no_gaps_and_add_up_when_they_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock()
    monkeypatch.setattr("dist_seg.runtime.startup.process_age_s", lambda: 0.5)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    startup = StartUp()
    for at_s, part in ((102.0, "imports"), (103.0, "restore"), (107.0, "model"), (115.0, "restore")):
        clock.now_s = at_s
        startup.done(part)
    assert startup.seconds == {"interpreter": 0.5, "imports": 2.0, "restore": 9.0, "model": 4.0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the start of the process from /proc")
def test_the_interpreter_counts_from_the_start_of_the_process() -> None:
    code = (
        "import time; time.sleep(0.3); from dist_seg.runtime.startup import StartUp; print(StartUp().process_started)"
    )
    before = time.time()
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    ended = time.time()
    tick_s = 0.01
    # Had the clock begun with the import, the start would lie 0.3 s later than the process can have begun to end.
    assert before - 2 * tick_s <= float(process.stdout) <= ended - 0.3 + 2 * tick_s
