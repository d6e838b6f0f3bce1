"""Shards that cannot be used: found before training reads them, and passed over in the same way by both loaders."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dist_seg.config.schema import Config, EvalConfig
from dist_seg.data.loading.batch import Batch
from dist_seg.data.loading.loader import eval_batches, train_batches
from dist_seg.data.shards.bad_shards import check_bad_shards, find_bad_shards
from dist_seg.errors import DataError, StorageError
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import CPU, PackedData, config, scene_sample, write_dataset
from tests.unit.storage.range_server import flaky_server

UNITS = [(step, lane) for step in range(9) for lane in range(2)]
"""Three epochs of three steps of 4 samples, 12 in all, 4 a shard."""
LOADERS = [("torch", 0), ("torch", 1), ("dali", 1)]
_SHARD = "train-000001.tar"


@pytest.fixture
def data(tmp_path: Path) -> PackedData:
    return write_dataset(tmp_path, [scene_sample(i, height=40, width=50) for i in range(12)], per_shard=4)


@pytest.fixture(params=LOADERS, ids=lambda loader: f"{loader[0]}-{loader[1]}")
def loader(request: pytest.FixtureRequest) -> tuple[str, int]:
    kind, num_threads = request.param
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    return kind, num_threads


def keys_of(data: PackedData, shard: int) -> set[str]:
    return {f"jpeg420-{i:04d}" for i in range(4 * shard, 4 * shard + 4)}


def damage(folder: Path, how: str) -> None:
    tar, index = folder / _SHARD, folder / _SHARD.replace(".tar", ".samples")
    match how:
        case "missing":
            tar.unlink()
        case "truncated":
            os.truncate(tar, tar.stat().st_size // 2)
        case "longer":
            os.truncate(tar, tar.stat().st_size + 512)
        case "no index":
            index.unlink()
        case "another index":
            index.write_bytes((folder / "train-000000.samples").read_bytes())
        case "other bytes":
            tar.write_bytes(bytes(tar.stat().st_size))


def trained(
    data: PackedData, loader: tuple[str, int], bad: Mapping[str, str] | None = None, *, most: int = 1
) -> list[Batch]:
    kind, num_threads = loader
    cfg = config(loader=kind, max_bad_shards=most)
    plan = data.train_plan(global_batch=4, micro_batch=2, seed=cfg.train.seed)
    return list(train_batches(cfg, data.view_with(num_threads=num_threads, bad_shards=bad or {}), plan, UNITS, CPU))


def keys(batches: Iterable[Batch]) -> list[tuple[str, ...]]:
    return [batch.keys for batch in batches]


class TestBeforeTheStart:
    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("missing", "is missing"),
            ("truncated", "bytes, but the manifest says"),
            ("longer", "bytes, but the manifest says"),
            ("no index", "its index train-000001.samples is missing"),
            ("another index", "train-000001.samples differs from what was packed"),
        ],
    )
    def test_a_bad_shard_is_found_with_the_reason(
        self, data: PackedData, tmp_path: Path, how: str, reason: str
    ) -> None:
        damage(tmp_path, how)
        found = find_bad_shards(data.storage, data.manifest.split("train").shards)
        assert found.keys() == {_SHARD}
        assert reason in found[_SHARD]

    def test_whole_shards_are_not_found(self, data: PackedData) -> None:
        assert find_bad_shards(data.storage, data.manifest.split("train").shards) == {}

    def test_a_server_that_fails_makes_no_bad_shards(self, data: PackedData, tmp_path: Path) -> None:
        with flaky_server(tmp_path) as server:
            server.refuse_next(1_000_000)
            storage = open_storage(server.url, retry_s=0.2)
            with pytest.raises(StorageError, match=r"train-00000\d\.\w+: cannot be read"):
                find_bad_shards(storage, data.manifest.split("train").shards)

    def test_more_than_allowed_are_an_error_that_names_all(self) -> None:
        bad = {"train-000001.tar": "is missing", "train-000004.tar": "has 5 bytes, but the manifest says 7"}
        with pytest.raises(DataError) as raised:
            check_bad_shards(bad, 1, 10, "s3://b/data")
        text = str(raised.value)
        assert all(f"{name}: {reason}" in text for name, reason in bad.items())
        assert "data.max_bad_shards=2" in text and "dist-seg verify s3://b/data" in text

    def test_as_many_as_allowed_are_none(self) -> None:
        check_bad_shards({"a.tar": "is missing"}, 1, 2, "data")

    def test_no_bound_allows_all_shards_to_be_bad(self) -> None:
        with pytest.raises(DataError, match="1 shard cannot be used") as raised:
            check_bad_shards({"a.tar": "is missing"}, 99, 1, "data")
        assert "max_bad_shards" not in str(raised.value)


class TestTraining:
    def test_samples_of_a_known_bad_shard_are_replaced_and_counted(
        self, data: PackedData, loader: tuple[str, int]
    ) -> None:
        whole = trained(data, loader)
        batches = trained(data, loader, {_SHARD: "is missing"})
        assert all(len(batch.keys) == 2 for batch in batches)
        assert not {key for batch in batches for key in batch.keys} & keys_of(data, 1)
        planned = [sum(key in keys_of(data, 1) for key in batch.keys) for batch in whole]
        assert sum(planned) == 12  # each of the shard's samples once an epoch
        assert [batch.replaced for batch in batches] == planned
        assert all(batch.bad == () and batch.bad_shards == () for batch in batches)

    def test_the_other_samples_stay_where_they_are(self, data: PackedData, loader: tuple[str, int]) -> None:
        whole, batches = trained(data, loader), trained(data, loader, {_SHARD: "is missing"})
        for before, after in zip(whole, batches, strict=True):
            for old, new in zip(before.keys, after.keys, strict=True):
                assert old == new or old in keys_of(data, 1)

    @pytest.mark.parametrize("how", ["missing", "no index", "another index", "other bytes"])
    def test_one_that_goes_bad_under_the_run_is_named_and_replaced_as_if_it_were_known(
        self, data: PackedData, tmp_path: Path, loader: tuple[str, int], how: str
    ) -> None:
        damage(tmp_path, how)
        batches = trained(data, loader)
        assert keys(batches) == keys(trained(data, loader, {_SHARD: "as known before"}))
        assert {shard.name for batch in batches for shard in batch.bad_shards} == {_SHARD}
        assert sum(batch.replaced for batch in batches) == 12
        assert not any(batch.bad for batch in batches)

    def test_both_loaders_take_the_same_samples_of_a_truncated_shard(self, data: PackedData, tmp_path: Path) -> None:
        pytest.importorskip("nvidia.dali")
        damage(tmp_path, "truncated")
        found = [trained(data, loader) for loader in LOADERS]
        described = [[(b.keys, b.digest, b.bad_shards, b.replaced) for b in batches] for batches in found]
        assert described[0] == described[1] == described[2]

    def test_what_comes_does_not_depend_on_what_came_before(self, data: PackedData, tmp_path: Path) -> None:
        damage(tmp_path, "truncated")
        cfg, plan = config(max_bad_shards=1), data.train_plan(global_batch=4, micro_batch=2, seed=3)
        for unit, batch in zip(UNITS, trained(data, ("torch", 0)), strict=True):
            (alone,) = train_batches(cfg, data.view, plan, [unit], CPU)
            assert (alone.keys, alone.digest) == (batch.keys, batch.digest)

    def test_without_leave_a_shard_that_goes_bad_is_an_error_that_says_what_to_do(
        self, data: PackedData, tmp_path: Path, loader: tuple[str, int]
    ) -> None:
        damage(tmp_path, "missing")
        with pytest.raises(DataError, match=r"(?s)train-000001\.tar: no such file.*verify.*data\.max_bad_shards=1"):
            trained(data, loader, most=0)

    def test_two_of_three_shards_may_be_bad_though_many_candidates_are(self, data: PackedData) -> None:
        bad = {"train-000000.tar": "is missing", _SHARD: "is missing"}
        batches = trained(data, ("torch", 0), bad, most=2)
        assert {key for batch in batches for key in batch.keys} == keys_of(data, 2)

    def test_no_shard_left_is_an_error(self, data: PackedData, tmp_path: Path) -> None:
        for tar in tmp_path.glob("*.tar"):
            tar.unlink()
        with pytest.raises(DataError, match="no other shard is left"):
            trained(data, ("torch", 0), most=9)


class TestEvaluation:
    def scored(
        self, data: PackedData, loader: tuple[str, int], bad: Mapping[str, str] | None = None, *, allow: bool = True
    ) -> list[Batch]:
        kind, num_threads = loader
        cfg: Config = replace(config(loader=kind), eval=EvalConfig(batch=3, allow_bad_samples=allow))
        plan = data.eval_plan(batch=3)
        view = data.view_with(num_threads=num_threads, bad_shards=bad or {})
        groups = eval_batches(cfg, view, "train", plan, range(plan.num_batches), CPU)
        return [batch for group in groups for batch in group]

    def test_samples_of_a_bad_shard_are_left_out_and_named(self, data: PackedData, loader: tuple[str, int]) -> None:
        batches = self.scored(data, loader, {_SHARD: "is missing"})
        assert {key for batch in batches for key in batch.keys} == keys_of(data, 0) | keys_of(data, 2)
        left_out = [bad for batch in batches for bad in batch.bad]
        assert {bad.key for bad in left_out} == keys_of(data, 1)
        assert all(bad.reason == "its shard cannot be used: is missing" for bad in left_out)

    def test_samples_of_a_shard_without_index_are_named_by_their_place(self, data: PackedData, tmp_path: Path) -> None:
        damage(tmp_path, "no index")
        left_out = [bad.key for batch in self.scored(data, ("torch", 0)) for bad in batch.bad]
        assert left_out == [f"sample {i} of {_SHARD}" for i in range(4)]

    def test_without_leave_a_bad_shard_is_an_error(
        self, data: PackedData, tmp_path: Path, loader: tuple[str, int]
    ) -> None:
        damage(tmp_path, "missing")
        with pytest.raises(DataError, match=r"(?s)train-000001\.tar: no such file.*eval\.allow_bad_samples=true"):
            self.scored(data, loader, allow=False)
