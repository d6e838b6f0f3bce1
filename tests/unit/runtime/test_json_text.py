"""JSON in lines: any value comes back, and many numbers take one line."""

import json

from hypothesis import given
from hypothesis import strategies as st

from dist_seg.runtime.json_text import json_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


@given(values, st.booleans())
def test_any_value_comes_back(value: object, ensure_ascii: bool) -> None:
    assert json.loads(json_text(value, ensure_ascii=ensure_ascii)) == value


def test_numbers_stand_on_one_line_and_all_else_on_lines_of_its_own() -> None:
    value = {"shards": [{"name": "ä", "counts": [1, 2.5]}, {}], "names": ["a"], "none": []}
    assert json_text(value, ensure_ascii=False).splitlines() == [
        "{",
        ' "shards": [',
        "  {",
        '   "name": "ä",',
        '   "counts": [1, 2.5]',
        "  },",
        "  {}",
        " ],",
        ' "names": [',
        '  "a"',
        " ],",
        ' "none": []',
        "}",
    ]
