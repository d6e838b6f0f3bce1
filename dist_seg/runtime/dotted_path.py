"""Imports the user's own code by its dotted path."""

import importlib
from collections.abc import Callable

from dist_seg.errors import ConfigError


def import_function(path: str, setting: str) -> Callable[..., object]:
    """The callable at `my_package.module:name` (or `my_package.module.name`).

    Raises ConfigError naming the setting and the path if there is no such callable.
    """
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not name:
        raise ConfigError(f"{setting}: {path!r} is not of the form package.module:function")
    try:
        found: object = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{setting}: {path}: cannot import {module_name}: {error}; it must be installed, or lie in the working "
            "directory or on PYTHONPATH"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{setting}: {path}: {module_name} has no function {name}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"{setting}: {path} is a {type(found).__name__}, not a function")
    return found
