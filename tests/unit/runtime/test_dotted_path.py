import math

import pytest

from dist_seg.errors import ConfigError
from dist_seg.runtime.dotted_path import import_function


@pytest.mark.parametrize("path", ["math:sqrt", "math.sqrt"])
def test_a_function_is_found_by_either_spelling(path: str) -> None:
    assert import_function(path, "loss.custom") is math.sqrt


def test_an_attribute_of_a_class_is_found() -> None:
    assert import_function("collections:OrderedDict.fromkeys", "loss.custom")("ab") == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sqrt", "form package"),
        (":sqrt", "form package"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("math:nothing", "has no function nothing"),
        ("math:pi", "is a float"),
    ],
)
def test_what_cannot_be_called_is_an_error_that_names_setting_and_path(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"loss\.custom: .*{message}"):
        import_function(path, "loss.custom")
