"""Fixtures that tests of every part share."""

from pathlib import Path

import pytest

from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.pack import pack

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images. A machine that has only this repository skips what needs it."""
    if not _SHARED_DATA.is_dir():
        pytest.skip(f"needs the real images of {_SHARED_DATA}, which this machine does not have")
    return _SHARED_DATA


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set: 24 training and 8 validation images, 96x128, 6 classes, in several shards."""
    out = tmp_path_factory.mktemp("synthetic_shards")
    pack(SyntheticSource(num_train=24, num_val=8, height=96, width=128), out, shard_bytes=100_000)
    return out


@pytest.fixture(scope="session")
def instance_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed instances: 24 training and 8 validation images, 96x128, 2 to 5 objects each, 5 classes, several shards."""
    out = tmp_path_factory.mktemp("instance_shards")
    scenes = SyntheticSource(num_train=24, num_val=8, height=96, width=128)
    pack(SyntheticInstances(scenes=scenes), out, shard_bytes=100_000)
    return out
