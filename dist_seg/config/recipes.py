"""Where the configurations that come with the project lie."""

from pathlib import Path

from dist_seg.errors import ConfigError


def recipe_path(name: str) -> Path:
    """A file of `configs/`: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: no such configuration comes with dist-seg")
