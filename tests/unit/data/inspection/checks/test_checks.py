"""Empty masks, missing classes, odd images and odd objects; the table, the text and the sheet of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.formats.coco.instances import open_coco
from dist_seg.data.formats.synthetic import SyntheticLabels, SyntheticSource
from dist_seg.data.inspection.checks.class_checks import cooccurrence
from dist_seg.data.inspection.checks.image_checks import robust_distance
from dist_seg.data.inspection.findings import Severity
from dist_seg.data.inspection.samples import decoded
from dist_seg.data.inspection.samples.look import look_at_samples
from dist_seg.data.inspection.samples.measures import measure
from dist_seg.data.inspection.sheets import save_suspects
from dist_seg.data.inspection.table import SampleTable
from dist_seg.data.inspection.trouble import Trouble, find_trouble
from dist_seg.data.inspection.workers import Workers
from dist_seg.data.packing.pack import pack
from dist_seg.data.shards.manifest_parsing import load_manifest
from dist_seg.data.shards.opened import open_data, read_unchecked_sidecar
from dist_seg.errors import DataError
from dist_seg.storage.object_store import open_storage
from tests.loader_cases import scene_sample, write_dataset
from tests.unit.data.coco_data import annotation, square, write_coco

from ..scenes import Scene, found, packed, scaled, scene, trouble_of


def _finding(trouble: Trouble, kind: str) -> tuple[str, int]:
    (finding,) = [finding for finding in trouble.findings if finding.kind == kind]
    return finding.severity.name, finding.count


def _scenes(count: int = 12) -> dict[str, Scene]:
    return {f"train/photo_{chr(97 + number)}": scene(number) for number in range(count)}


class TestMasks:
    def test_masks_with_nothing_in_them(self, tmp_path: Path) -> None:
        scenes = _scenes(4)
        blank = np.full((96, 128), 255, np.uint8)
        nearly = blank.copy()
        nearly[:4, :64] = 1
        nearly[0, 0] = 0
        scenes |= {
            "train/ignored": (scene(20)[0], blank),
            "train/nearly": (scene(21)[0], nearly),
            "train/background": (scene(22)[0], np.zeros_like(blank)),
        }
        trouble = trouble_of(tmp_path, scenes)
        kinds = found(trouble)
        assert kinds["nothing_known"] == [("train/ignored",)] and _finding(trouble, "nothing_known")[0] == "WARNING"
        assert kinds["nearly_ignored"] == [("train/nearly",)]
        assert kinds["one_class"] == [("train/background",)] and _finding(trouble, "one_class")[0] == "NOTE"


class TestClasses:
    def test_a_class_that_another_split_has(self, tmp_path: Path) -> None:
        scenes = _scenes(6)
        image, mask = scene(30)
        scenes["val/one"] = (image, np.where(mask == 3, 0, mask).astype(np.uint8))
        scenes["val/two"] = (scene(31)[0], np.where(scene(31)[1] == 3, 0, scene(31)[1]).astype(np.uint8))
        assert any((mask == 3).any() for _, mask in list(scenes.values())[:6])
        trouble = trouble_of(tmp_path, scenes)
        whats = [finding.what for finding in trouble.findings if finding.kind == "absent_class"]
        assert "classes that other splits have are absent from val: triangle" in [what.split(",")[0] for what in whats]

    def test_a_class_that_one_sample_has(self, tmp_path: Path) -> None:
        scenes = {name: (image, np.where(mask == 4, 0, mask)) for name, (image, mask) in _scenes().items()}
        mask = scenes["train/photo_d"][1].copy()
        mask[:3, :3] = 4
        scenes["train/photo_d"] = (scenes["train/photo_d"][0], mask)
        trouble = trouble_of(tmp_path, scenes)
        assert found(trouble)["class_seen_once"] == [("train/photo_d",)]
        (finding,) = [finding for finding in trouble.findings if finding.kind == "class_seen_once"]
        assert finding.examples[0].what == "ring"

    @pytest.mark.parametrize("number", [1, 2])
    def test_where_some_samples_are_looked_at_the_manifest_says_how_many_have_a_class(
        self, tmp_path: Path, number: int
    ) -> None:
        scenes = {name: (image, np.where(mask == 4, 0, mask)) for name, (image, mask) in _scenes(20).items()}
        for name in list(scenes)[:number]:
            scenes[name][1][:3, :3] = 4
        folder = packed(tmp_path, scenes)
        for limit in (10, 12, 15, 19):
            named = [
                finding
                for finding in find_trouble(open_data(folder), limit=limit).findings
                if finding.kind == "class_seen_once"
            ]
            assert len(named) == (number == 1)
            for finding in named:
                assert finding.count == 1
                assert [example.what for example in finding.examples] == [
                    "ring"
                ] or "not looked at: ring" in finding.what

    def test_cooccurrence_is_that_of_the_masks(self, tmp_path: Path) -> None:
        scenes = _scenes(5)
        data = open_data(packed(tmp_path, scenes))
        with Workers(1) as workers:
            looked = look_at_samples(data, data.manifest.splits, limit=None, workers=workers, progress=None)
        counts = cooccurrence(SampleTable.of(looked, 6), "train")
        expected = np.zeros((6, 6), int)
        for _, mask in scenes.values():
            there = set(np.unique(mask).tolist()) - {255}
            for a in there:
                for b in there:
                    expected[a, b] += 1
        assert np.array_equal(counts, expected)


class TestImages:
    def test_arrays_that_only_look_the_same_are_not_the_same_pixels(self) -> None:
        image, mask = scene(0)
        values = np.repeat(image.astype(np.uint16), 2, axis=2) * 200
        other = values.copy()
        other[5, 5, 5] += 1  # in a channel that is never shown
        view = decoded.SampleView(
            image=image,
            values=values,
            layers=mask.astype(np.int16)[None],
            class_pixels=np.bincount(mask.ravel(), minlength=6),
            ignored_fraction=0.0,
        )
        digests = [
            measure(replace(view, values=array))[0]["digest"].tolist() for array in (values, values.copy(), other)
        ]
        assert digests[0] == digests[1] != digests[2]

    def test_an_array_is_of_one_colour_where_all_its_channels_are(self) -> None:
        image, mask = scene(0)
        flat = np.full((*image.shape[:2], 5), 700, np.uint16)
        lively = flat.copy()
        lively[..., 4] += image[..., 0]  # in a channel that is never shown
        view = decoded.SampleView(
            image=np.full_like(image, 9),
            layers=mask.astype(np.int16)[None],
            class_pixels=np.bincount(mask.ravel(), minlength=6),
            ignored_fraction=0.0,
        )
        assert [bool(measure(replace(view, values=v))[0]["constant"]) for v in (flat, lively)] == [True, False]

    def test_images_unlike_the_rest(self, tmp_path: Path) -> None:
        image, mask = scene(0, 120, 150)
        scenes = {
            f"train/part_{chr(97 + n)}": (image[n : 96 + n, n:][:, :128], mask[n : 96 + n, n:][:, :128])
            for n in range(12)
        }
        scenes["train/dark"] = ((image[:96, :128] // 12).astype(np.uint8), mask[:96, :128])
        scenes["train/large"] = (scaled(image, 3), mask.repeat(3, axis=0).repeat(3, axis=1))
        scenes["train/grey"] = (np.full((96, 128, 3), 77, np.uint8), scene(22)[1])
        trouble = trouble_of(tmp_path, scenes)
        kinds = found(trouble)
        assert kinds["odd_size"] == [("train/large",)]
        assert kinds["odd_brightness"] == [("train/dark",)]
        assert kinds["constant"] == [("train/grey",)] and _finding(trouble, "constant")[0] == "WARNING"

    def test_distances_are_in_robust_deviations(self) -> None:
        values = np.array([1.0, 2, 3, 4, 100])
        assert robust_distance(values, 0.1) == pytest.approx(np.abs(values - 3) / 1.4826)
        assert robust_distance(np.array([5.0, 5, 5, 7]), 0.5).tolist() == [0, 0, 0, 4]


class TestObjects:
    def test_specks_slivers_and_twins(self, tmp_path: Path) -> None:
        def polygon(number: int, x: float, y: float, width: float, height: float) -> dict[str, object]:
            corners = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            whole = annotation(number)
            return {**whole, "segmentation": corners, "bbox": [x, y, width, height], "area": width * height}

        write_coco(
            tmp_path, [polygon(1, 2, 2, 1, 1), polygon(2, 5, 1, 1, 12), *(polygon(n, 8, 3, 6, 5) for n in (3, 4))]
        )
        pack(open_coco(tmp_path), tmp_path / "out")
        trouble = find_trouble(open_data(tmp_path / "out"))
        assert _finding(trouble, "specks") == ("WARNING", 1)
        assert _finding(trouble, "slivers") == ("NOTE", 1)
        assert _finding(trouble, "twins") == ("WARNING", 1)

    def test_annotations_that_contradict_their_masks(self, tmp_path: Path) -> None:
        box = [2, 3, 14, 12]
        corners = [[2, 3, 16, 3, 16, 15, 2, 15]]
        right = {"segmentation": corners, "bbox": box, "area": 168.0}
        wrong: list[dict[str, object]] = [
            {},
            {"bbox": [2, 3, 16, 15]},  # x and y of the far corner
            {"bbox": [20, 15, 5, 5]},
            {"bbox": [20, 15, 5, 5], "iscrowd": 1},
            {"area": 1.0},
            {"area": 1e9},
            {"area": 720.0, "segmentation": [[0, 0, 30, 0, 30, 20, 0, 20]], "bbox": [0, 0, 30, 20]},
            {"area": 0},
        ]
        write_coco(tmp_path, [annotation(n, **{**right, **changes}) for n, changes in enumerate(wrong)])
        pack(open_coco(tmp_path), tmp_path / "out")
        trouble = find_trouble(open_data(tmp_path / "out"))
        assert _finding(trouble, "odd_boxes") == ("WARNING", 1)
        assert _finding(trouble, "odd_areas") == ("WARNING", 3)
        assert _finding(trouble, "zero_areas") == ("NOTE", 1)
        assert found(trouble)["odd_boxes"] == [("train/1",)]

    @pytest.mark.parametrize("field", ["odd_boxes", "odd_areas"])
    def test_annotations_that_tools_round_contradict_nothing(self, tmp_path: Path, field: str) -> None:
        small = {"segmentation": [square(4, 4, 2)], "bbox": [3, 3, 4, 4], "area": 1.0}
        thin = {"segmentation": [[1, 1, 25, 1, 25, 1.6, 1, 1.6]], "bbox": [1, 1, 24, 0.6], "area": 14.4}
        spike = {"segmentation": [[2, 10, 16, 10.1, 20, 8, 24, 10.5, 20, 13]], "bbox": [2, 8, 22, 5], "area": 23.0}
        write_coco(tmp_path, [annotation(number, **each) for number, each in enumerate((small, thin, spike))])
        pack(open_coco(tmp_path), tmp_path / "out")
        assert field not in found(find_trouble(open_data(tmp_path / "out")))

    @pytest.mark.parametrize("rle", ["Rhm", "u[U", "\u4e00"])
    def test_run_lengths_that_are_none_are_an_error_of_their_sample(self, tmp_path: Path, rle: str) -> None:
        write_coco(tmp_path, [annotation(1)])
        pack(open_coco(tmp_path), tmp_path / "out")
        storage = open_storage(tmp_path / "out")
        manifest = load_manifest(storage)
        (shard,) = manifest.split("train").shards
        sidecar = read_unchecked_sidecar(storage, shard)
        image, target, text = decoded.read_members(storage, shard, sidecar, 0)
        document = json.loads(text)
        document["annotations"][0]["segmentation"]["counts"] = rle
        members = [image, target, json.dumps(document).encode()]
        with pytest.raises(UndecodableError, match="json: the mask of an object"):
            decoded.view_sample(members, manifest, sidecar.height(0), sidecar.width(0), 10_000)

    def test_images_without_objects(self, tmp_path: Path) -> None:
        write_coco(tmp_path, [])
        pack(open_coco(tmp_path), tmp_path / "out")
        assert _finding(find_trouble(open_data(tmp_path / "out")), "no_objects") == ("NOTE", 1)

    def test_good_instances_have_no_faults(self, instance_shards: Path) -> None:
        trouble = find_trouble(open_data(instance_shards))
        assert not [finding.kind for finding in trouble.findings if finding.severity > Severity.NOTE]


class TestSamples:
    def test_any_number_of_workers_finds_the_same(self, synthetic_shards: Path) -> None:
        one = find_trouble(open_data(synthetic_shards), workers=1)
        assert find_trouble(open_data(synthetic_shards), workers=2) == one
        assert one.looked_at == {"train": (24, 24), "val": (8, 8)}

    def test_a_limit_is_kept_and_spread(self, synthetic_shards: Path) -> None:
        data = open_data(synthetic_shards)
        with Workers(1) as workers:
            every = look_at_samples(data, data.manifest.splits, limit=None, workers=workers, progress=None)
            looked = look_at_samples(data, data.manifest.splits, limit=6, workers=workers, progress=None)
        whole = every["train"].keys
        assert looked["train"].keys == whole[::4]
        assert find_trouble(open_data(synthetic_shards), limit=6).looked_at == {"train": (6, 24), "val": (6, 8)}

    def test_with_a_limit_of_0_nothing_is_decoded(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, [replace(scene_sample(0), image=b"no picture")])
        trouble = find_trouble(open_data(tmp_path), limit=0)
        assert trouble.looked_at == {"train": (0, 1)} and trouble.cooccurrence == {}
        assert not [finding for finding in trouble.findings if finding.kind == "unreadable"]

    def test_what_cannot_be_decoded_is_an_error_and_the_rest_is_looked_at(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, [scene_sample(0), replace(scene_sample(1), image=b"no picture"), scene_sample(2)])
        trouble = find_trouble(open_data(tmp_path))
        assert _finding(trouble, "unreadable") == ("ERROR", 1)
        (example,) = trouble.findings[0].examples
        assert example.what == "image: neither a JPEG nor a PNG"
        assert trouble.looked_at == {"train": (3, 3)}

    def test_a_picture_that_is_too_large_to_be_trusted_is_not_decoded(self, synthetic_shards: Path) -> None:
        trouble = find_trouble(open_data(synthetic_shards, max_pixels=96 * 128 - 1), split="val")
        assert _finding(trouble, "unreadable") == ("ERROR", 8)
        assert (
            "128x96 pixels, more than the allowed 12287; set a larger --max-pixels"
            in trouble.findings[0].examples[0].what
        )
        assert find_trouble(open_data(synthetic_shards, max_pixels=96 * 128), split="val").looked_at == {"val": (8, 8)}

    def test_multilabel_data_is_looked_at(self, tmp_path: Path) -> None:
        scenes = SyntheticLabels(scenes=SyntheticSource(num_train=12, num_val=4, height=96, width=128))
        pack(scenes, tmp_path)
        data = open_data(tmp_path)
        trouble = find_trouble(data)
        assert not [finding.kind for finding in trouble.findings if finding.severity > Severity.NOTE]
        labels = [scenes.load(sample).mask > 0 for sample in scenes.samples() if sample.split == "val"]
        present = np.array([label.any(axis=(1, 2)) for label in labels]).astype(int)
        assert np.array_equal(trouble.cooccurrence["val"], present.T @ present)
        with Workers(1) as workers:
            looked = look_at_samples(data, data.manifest.splits, limit=None, workers=workers, progress=None)
        assert looked["train"].num_fits == 12

    def test_a_flipped_byte_is_an_error(self, tmp_path: Path) -> None:
        folder = packed(tmp_path, _scenes(2))
        data = bytearray((folder / "train-000000.tar").read_bytes())
        data[700] ^= 1
        (folder / "train-000000.tar").write_bytes(data)
        trouble = find_trouble(open_data(folder))
        assert _finding(trouble, "unreadable") == ("ERROR", 1)
        assert "is damaged; run verify" in trouble.findings[0].examples[0].what

    def test_an_unknown_split_is_refused(self, synthetic_shards: Path) -> None:
        with pytest.raises(DataError, match="it has train, val"):
            find_trouble(open_data(synthetic_shards), split="test")

    def test_every_progress_comes_to_its_end(self, tmp_path: Path) -> None:
        scenes = {**_scenes(5), "val/copy": scene(2), "val/mirrored": (scene(1)[0][:, ::-1], scene(1)[1])}
        told: dict[str, list[tuple[int, int]]] = {"looking": [], "searching": [], "comparing": []}
        find_trouble(
            open_data(packed(tmp_path, scenes)),
            looking=lambda done, total: told["looking"].append((done, total)),
            searching=lambda done, total: told["searching"].append((done, total)),
            comparing=lambda done, total: told["comparing"].append((done, total)),
        )
        assert told["looking"][-1] == told["searching"][-1] == (7, 7)
        done, total = told["comparing"][-1]
        assert done == total >= 1
        assert all(steps == sorted(steps) for steps in told.values())


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trouble]:
    folder = tmp_path_factory.mktemp("faulty")
    scenes = _scenes()
    scenes["val/copy"] = (scenes["train/photo_a"][0][:, ::-1], scenes["train/photo_a"][1][:, ::-1])
    for number in range(5):
        scenes[f"train/dull_{chr(97 + number)}"] = (scene(40 + number)[0], np.zeros((96, 128), np.uint8))
    return folder, trouble_of(folder, scenes)


class TestOutput:
    def test_the_text_has_severity_count_keys_and_advice(self, trouble: tuple[Path, Trouble]) -> None:
        text = trouble[1].to_text()
        assert "looked at 17 of 17 samples of train, 1 of 1 sample of val: 1 error" in text
        head, keys, advice = text[text.index("\nerror") + 1 :].splitlines()[:3]
        assert head.split() == [
            "error",
            "1",
            "pairs",
            "of",
            "images",
            "that",
            "look",
            "like",
            "copies,",
            "one",
            "in",
            "train,",
            "one",
            "in",
            "val",
        ]
        assert keys.split()[:3] == ["train/photo_a", "=", "val/copy"] and "mirrored" in keys
        assert advice.strip().startswith("> take them out of one of the splits")
        assert text.index("\nerror") < text.index("\nnote")

    def test_of_many_examples_the_text_names_three(self, trouble: tuple[Path, Trouble]) -> None:
        lines = trouble[1].to_text().splitlines()
        start = next(i for i, line in enumerate(lines) if "have only one class" in line)
        assert [line.strip() for line in lines[start + 1 : start + 4]] == [
            "train/dull_a",
            "train/dull_b",
            "train/dull_c, ...",
        ]

    def test_the_table_of_classes_is_left_out_where_there_are_many(self, trouble: tuple[Path, Trouble]) -> None:
        assert "samples of train with both classes" in trouble[1].to_text()
        many = replace(trouble[1], class_names=tuple(map(str, range(80))))
        assert "with both classes" not in many.to_text()

    def test_json_holds_all(self, trouble: tuple[Path, Trouble]) -> None:
        document = json.loads(json.dumps(trouble[1].to_json()))
        assert document["looked_at"]["train"] == {"samples": 17, "of": 17}
        (leak,) = [finding for finding in document["findings"] if finding["kind"] == "copies_across"]
        assert leak["severity"] == "error" and leak["splits"] == ["train", "val"] and leak["count"] == 1
        assert leak["examples"][0]["samples"] == ["train/photo_a", "val/copy"]
        counts = document["cooccurrence"]["train"]
        assert len(counts) == 6 and counts[0][0] == 17

    def test_suspects_are_drawn(self, trouble: tuple[Path, Trouble], tmp_path: Path) -> None:
        assert save_suspects(open_data(trouble[0]), trouble[1], tmp_path / "suspects.png")
        with Image.open(tmp_path / "suspects.png") as sheet:
            assert sheet.width > 4 * 240 and sheet.height > 3 * 180

    def test_without_suspects_there_is_no_sheet(self, trouble: tuple[Path, Trouble], tmp_path: Path) -> None:
        assert not save_suspects(open_data(trouble[0]), replace(trouble[1], findings=()), tmp_path / "suspects.png")
        assert not (tmp_path / "suspects.png").exists()
