"""The configuration files that come with dist-seg."""

from pathlib import Path

from dist_seg.errors import ConfigError


def recipe_path(name: str) -> Path:
    """A file of `configs/`, which is next to the package in a checkout and inside it once installed."""
    found = _find(name)
    if found is None:
        raise ConfigError(f"{name}: no such configuration comes with dist-seg")
    return found


def given_or_shipped(given: Path) -> Path:
    """The given file or, if there is none and it is a bare name, the file of that name in `configs/`."""
    if given.is_file() or given.name != str(given):
        return given
    return _find(given.name) or given


def _find(name: str) -> Path | None:
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / name).is_file():
            return folder / name
    return None
