"""The report as Chromium shows it: its text, its width, its console and what it asks the network for."""

import html
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dist_seg.report.page import write_report
from dist_seg.report.result import Result
from dist_seg.runtime.documents import convert
from dist_seg.tasks.classes import ClassInfo
from dist_seg.telemetry.events import BadSampleFound, EvalDone
from tests.unit.report.test_page import CLASS_NAMES, PALETTE, RESULT, end, log, picture, start, step

WIDE, NARROW = 1400, 420
LONG_NAME = "sign symbol of any shape or colour, its pole left out"
# Chromium's own requests (updates, time, accounts) have no origin; those of a page have one, be it opaque.
NO_ORIGIN = "not an origin"


class Browser:
    """Chromium without a window and without a network."""

    def __init__(self, program: str, profile: Path) -> None:
        self.program, self.profile = program, profile
        self.net_log = profile / "net.json"

    def open(self, page: Path, *options: str, width: int = WIDE) -> tuple[str, list[str]]:
        """What Chromium writes, and the lines of the page's console."""
        result = subprocess.run(
            [
                self.program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--hide-scrollbars",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--enable-logging=stderr",
                f"--user-data-dir={self.profile}",
                f"--log-net-log={self.net_log}",
                f"--window-size={width},3000",
                *options,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return result.stdout, [line for line in result.stderr.splitlines() if ":CONSOLE:" in line]

    def requests_of_the_page(self) -> list[str]:
        """The URLs that the page opened last asked the network for."""
        content = json.loads(self.net_log.read_text())
        kind = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
        jobs = [event["params"] for event in content["events"] if event["type"] == kind and "params" in event]
        return [job["url"] for job in jobs if job.get("initiator", NO_ORIGIN) != NO_ORIGIN]


class Text(html.parser.HTMLParser):
    """The text inside tags of one name, in order."""

    def __init__(self, page: str, tag: str) -> None:
        super().__init__()
        self.tag, self.depth, self.found = tag, 0, [""][:0]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == self.tag:
            self.depth += 1
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == self.tag

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.found[-1] = " ".join(f"{self.found[-1]} {data}".split())


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium on PATH")
    return Browser(program, tmp_path / "profile")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    run_dir = tmp_path / "run"
    evaluations = [
        EvalDone(step=at, split="val", weights="ema", metrics={"miou": at / 50}, images=3, eval_s=1.0)
        for at in (20, 40)
    ]
    bad = BadSampleFound(step=3, key="deep/down/in/many/folders/0001TP_008940", shard="train-000001.tar", reason="torn")
    log(run_dir, [start(), *(step(at, 1 / at) for at in range(1, 41)), *evaluations, bad, end(40)])
    names = (*CLASS_NAMES[:2], LONG_NAME)
    pictures = [picture("worst", "a/" + "very_long_name_" * 6), picture("best", "b/2")]
    classes = ClassInfo(names=names, palette=PALETTE, ignore_index=255)
    result = convert(RESULT, Result, "result.json")
    return write_report(run_dir, result, pictures, classes, "optim:\n  lr: 0.01\n")


def measured(browser: Browser, report: Path, expression: str, width: int) -> float:
    """The value of a JavaScript expression in the page, shown in a frame: no window is as narrow as a telephone."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    page = page.replace("</body>", f"<script>parent.document.title = {expression}</script></body>")
    frame = report.with_name("frame.html")
    frame.write_text(
        f'<title></title><iframe width="{width}" height="3000" frameborder="0" srcdoc="{html.escape(page)}"></iframe>',
        encoding="utf-8",
    )
    shown, _ = browser.open(frame, "--dump-dom")
    return float(Text(shown, "title").found[0])


def test_headings_and_cells_are_shown(browser: Browser, report: Path) -> None:
    shown, _ = browser.open(report, "--dump-dom")
    headings = ["Curves", "Time", "Classes", "Confusion matrix", "Pictures", "Data", "Environment"]
    assert Text(shown, "h2").found[: len(headings)] == headings
    cells = Text(shown, "td").found
    assert cells[:7] == ["sky", "0.900", "", "0.950", "0.970", "100", "90.9%"]
    assert f"{LONG_NAME} absent" in cells


def test_the_console_stays_empty(browser: Browser, report: Path) -> None:
    _, console = browser.open(report, "--dump-dom")
    assert console == []


def test_nothing_is_asked_of_another_host(browser: Browser, report: Path) -> None:
    browser.open(report, "--dump-dom")
    assert browser.requests_of_the_page() == []


def test_a_page_that_reaches_out_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://dist-seg.invalid/a.png"><script>console.error("here")</script>')
    _, console = browser.open(page, "--dump-dom")
    assert any("here" in line for line in console)
    assert browser.requests_of_the_page() == ["http://dist-seg.invalid/a.png"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_page_is_drawn_in_colours(browser: Browser, report: Path, tmp_path: Path, width: int) -> None:
    file = tmp_path / "shot.png"
    browser.open(report, f"--screenshot={file}", width=width)
    with Image.open(file) as shot:
        assert shot.width == width
        colors = shot.convert("RGB").getcolors(shot.width * shot.height)
    assert colors is not None
    assert sum(count > 50 for count, _ in colors) > 20


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_page_is_no_wider_than_the_window(browser: Browser, report: Path, width: int) -> None:
    assert measured(browser, report, "document.documentElement.scrollWidth", width) <= width


@pytest.mark.parametrize("column", [1, 3], ids=["IoU", "Dice"])
def test_scores_are_in_sight_on_a_narrow_screen_beside_a_long_name(browser: Browser, report: Path, column: int) -> None:
    right_edge = f"document.querySelector('table').rows[0].cells[{column}].getBoundingClientRect().right"
    assert measured(browser, report, right_edge, NARROW) <= NARROW - 28  # what lies beyond the card's padding is hidden
