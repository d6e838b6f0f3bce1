"""Options of `pack` and `index` with numbers that make no sense: refused by name before anything is read."""

import pytest

from dist_seg.cli.main import build_parser, main

_COMMANDS = (["pack", "folder", "images", "masks", "out"], ["pack", "synthetic", "out"], ["index", "tars"])


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("option", ["--max-pixels", "--workers"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", ""])
def test_a_count_below_one_is_refused_with_its_option(
    command: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: {value}: give a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", _COMMANDS)
def test_counts_from_one_are_taken(command: list[str]) -> None:
    options = build_parser().parse_args([*command, "--max-pixels", "1", "--workers", "12"])
    assert (options.max_pixels, options.workers) == (1, 12)
