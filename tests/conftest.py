"""Fixtures that tests of every part share."""

import logging
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_seg.data.formats.synthetic import SyntheticInstances, SyntheticSource
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from tests.faulty_store import Store, proxied

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
    pack(SyntheticSource(num_train=24, num_val=8, height=96, width=128), out, PackOptions(shard_bytes=100_000))
    return out


@pytest.fixture(scope="session")
def instance_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed instances: 24 training and 8 validation images, 96x128, 2 to 5 objects each, 5 classes, several shards."""
    out = tmp_path_factory.mktemp("instance_shards")
    scenes = SyntheticSource(num_train=24, num_val=8, height=96, width=128)
    pack(SyntheticInstances(scenes=scenes), out, PackOptions(shard_bytes=100_000))
    return out


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of moto's S3 server."""
    pytest.importorskip("obstore", reason="needs obstore (the storage extra)")
    server_module = pytest.importorskip("moto.server", reason="needs moto, a local S3 server (the test extra)")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def faulty(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The proxy before the S3 server, as every store that is opened in the test will find it."""
    with proxied(s3_port) as (port, store):
        for name, value in {
            "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def s3_url(s3_port: int, faulty: Store) -> str:
    """A folder in a bucket of its own."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"http://127.0.0.1:{s3_port}/{bucket}", method="PUT"), timeout=10):
        pass
    return f"s3://{bucket}/runs/one"
