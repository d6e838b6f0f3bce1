"""The identity of what a run sees: it is in checkpoints and results, and must stay what it was for runs of before."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dist_seg.config.schema import DataConfig
from dist_seg.data.codecs.npy import ArrayLayout
from dist_seg.data.shards.counts import Counts
from dist_seg.data.shards.manifest import ChannelStatistics, Manifest, ObjectCounts, ShardInfo, Split
from dist_seg.data.view.data_view import DataView, whole_view
from dist_seg.data.view.mix import united
from dist_seg.data.view.open import _with_chosen_samples
from dist_seg.data.view.taxonomy import align_classes, map_classes
from dist_seg.errors import DataError
from dist_seg.storage.object_store import LocalStorage


def packed(names: tuple[str, ...], *, ignore_index: int = 255, instances: bool = False) -> Manifest:
    shards = tuple(
        ShardInfo(
            name=f"train-{i:06d}.tar",
            bytes=10240 * (i + 1),
            sha256=f"{i:064x}",
            samples=4 + i,
            index_sha256=f"{i + 8:064x}",
            sidecar_sha256=f"{i + 16:064x}",
            class_samples=Counts(range(len(names))) if i else None,
            indexed=True if i == 2 else None,
        )
        for i in range(3)
    )
    objects = ObjectCounts(
        class_objects=tuple(range(1, len(names) + 1)),
        crowd_objects=2,
        max_objects=9,
        sides=(4.0, 8.5, 16.0, 32.0, 64.25),
        overfull_objects=1,
        hidden_pixels=3,
        skipped_annotations=0,
    )
    train = Split(
        shards=shards,
        class_pixels=tuple(10 * (i + 1) for i in range(len(names))),
        ignored_pixels=7,
        skipped_samples=1,
        objects=objects if instances else None,
    )
    val = replace(
        train,
        shards=(replace(shards[0], name="val-000000.tar"),),
        class_pixels=(5,) * len(names),
        ignored_pixels=0,
        skipped_samples=0,
    )
    return Manifest(
        task="instance" if instances else "semantic",
        class_names=names,
        palette=tuple((i, 2 * i, 3 * i) for i in range(len(names))),
        ignore_index=ignore_index,
        category_ids=tuple(7 + i for i in range(len(names))) if instances else None,
        splits={"train": train, "val": val},
    )


def seen(manifest: Manifest) -> DataView:
    return whole_view(LocalStorage(Path("unread")), manifest)


def chosen(view: DataView, facts: Mapping[str, object] | None = None, **data: object) -> DataView:
    return _with_chosen_samples(view, DataConfig(shards="s", **data), facts or {})  # type: ignore[arg-type]


def arrays() -> Manifest:
    statistics = ChannelStatistics(low=(1, 2), high=(300, 400), mean=(10.5, 20.25), std=(1.0, 2.5))
    manifest = packed(("a", "b"))
    splits = {name: replace(split, channels=statistics) for name, split in manifest.splits.items()}
    return replace(manifest, image=ArrayLayout(dtype="uint16", channels=2), splits=splits)


ROADS, SEAS = seen(packed(("road", "car", "truck", "sky"))), seen(packed(("sea", "sky"), ignore_index=9))
THINGS = seen(packed(("cat", "dog"), instances=True))
GROUPS = {"folds": base64.b64encode(bytes([0, 1, 2] * 5)).decode()}


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (ROADS, "826e8c0e6511df216ff84d6958b674563c4af145d9a29664669159a0c6afb97f"),
        (THINGS, "c95663b9c43139419e9f965574747c5946fc09a0298863b5460fcb79159ef5b7"),
        (seen(arrays()), "3564e7a7428c0ff15e77f93c81ddef1ce0f5fd5cd29b1c0259032cb6fc5721d7"),
        (
            map_classes(ROADS, {"car": "auto"}, "m"),
            "d3d960a27dcef2700dcba961e3644a1f2d0472635c8942f742cb5c48bba31019",
        ),
        (
            map_classes(ROADS, {"truck": "car", "sky": None}, "m"),
            "aca130daf40e853e9ba4022fea1bd092001db3291c363550b219c601b6d7379b",
        ),
        (
            map_classes(THINGS, {"dog": "cat"}, "m"),
            "a7ae5f0c914ca3256b3144a9ee1d8860bdeba2dd657edfe2cf4f829ef4266944",
        ),
        (
            align_classes(SEAS, ("sky", "sea", "more"), ((0, 0, 0),) * 3, None, 255),
            "3c48895fc19dd2a1e4f07eace5e9fce6e2b5dd3353e02857c316034021467d72",
        ),
        (chosen(ROADS, fraction=0.5), "010f4c29734c3113f002482f6c7b6d266237787a2293bcc13e303a62c7e33211"),
        (chosen(ROADS, folds=3, fold=1), "eb429fd0179437e604030b605a90844d93b7e1f9f1c5d9a19f9ae7bbf35d11e2"),
        (
            chosen(ROADS, GROUPS, folds=3, fold=1, fold_by="x", fraction=0.5),
            "6ef1983a11538556d12aed34f084374c1485a4e076a8f167de2c81abc8c68ca1",
        ),
        (united({"a": ROADS, "b": SEAS}), "565732121cd3a7756124c90739efbd65fadd9681aaaab92557304dca038f5909"),
        (
            united(
                {
                    "a": chosen(map_classes(ROADS, {"car": "auto"}, "m"), folds=3, fold=0),
                    "b": chosen(SEAS, folds=3, fold=0),
                }
            ),
            "e7abc624641a134c0003837bef68d18b5359d50199e9e53eb942a84d0ab8c367",
        ),
        (
            united({"a": ROADS, "b": chosen(SEAS, fraction=0.3)}),
            "5e2381b132321d35742c6246707298ec71904664485c57c78e90f7d99428915a",
        ),
        (
            united({"a": THINGS, "b": map_classes(THINGS, {"dog": None}, "m")}),
            "99997ef8e4141179636bfbee12c3177b81801422a75e04549489c40679b937b2",
        ),
    ],
)
def test_the_hash_of_a_view_is_what_it_was_when_views_were_manifests(view: DataView, expected: str) -> None:
    assert view.hash == expected


def test_a_whole_view_has_the_hash_of_its_manifest() -> None:
    for manifest in (packed(("a", "b")), packed(("a", "b"), instances=True), arrays()):
        assert seen(manifest).hash == manifest.hash


def test_what_a_run_does_with_data_is_not_part_of_its_identity() -> None:
    assert replace(ROADS, bad_shards={"train-000000.tar": "is missing"}, num_threads=3).hash == ROADS.hash


def test_a_split_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(DataError, match="no split 'test' in this data set; it has train, val"):
        ROADS.split("test")
