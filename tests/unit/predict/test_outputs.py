from pathlib import Path

import pytest

from dist_seg.errors import UserError
from dist_seg.predict.outputs import Outputs, unused_folder


def test_what_was_written_may_be_written_again_with_other_content(tmp_path: Path) -> None:
    mask = tmp_path / "out" / "sub" / "a.png"
    for content in (b"first", b"second", b"first"):
        Outputs.open(tmp_path / "out", [mask]).write(mask, content)
        assert mask.read_bytes() == content


@pytest.mark.parametrize("before", ["nothing", "another's output", "an output, changed since", "a folder"])
def test_what_predict_did_not_write_is_named_and_kept(tmp_path: Path, before: str) -> None:
    mask = tmp_path / "a.png"
    if before == "another's output":
        Outputs.open(tmp_path, ()).write(tmp_path / "b.png", b"truth")
    if before == "an output, changed since":
        Outputs.open(tmp_path, ()).write(mask, b"found")
    if before == "a folder":
        mask.mkdir()
    else:
        mask.write_bytes(b"truth")
    with pytest.raises(UserError, match=r"a\.png would be overwritten, but it is not what predict wrote there"):
        Outputs.open(tmp_path, [tmp_path / "new.png", mask])
    assert before == "a folder" or mask.read_bytes() == b"truth"


def test_outputs_of_another_number_of_ranks_may_be_written_again(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for rank, file in enumerate(files):
        Outputs.open(tmp_path, [file], rank).write(file, b"found")
    Outputs.open(tmp_path, files)


def test_a_record_that_ends_in_the_middle_of_a_line_keeps_what_comes_before_and_after(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    Outputs.open(tmp_path, ()).write(first, b"first")
    (record,) = tmp_path.glob(".predicted-*")
    record.write_bytes(record.read_bytes() + b'["b.pn')
    Outputs.open(tmp_path, ()).write(second, b"second")
    Outputs.open(tmp_path, [first, second])


def test_the_folder_that_is_proposed_is_a_new_one(tmp_path: Path) -> None:
    assert unused_folder(tmp_path / "masks") == tmp_path / "masks_predicted"
    (tmp_path / "masks_predicted").mkdir()
    assert unused_folder(tmp_path / "masks") == tmp_path / "masks_predicted2"
    assert unused_folder(tmp_path / "masks" / "..").name == f"{tmp_path.name}_predicted"
