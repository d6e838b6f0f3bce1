"""What holds for every kind of target, and which kind there is."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_seg.data.codecs.class_ids import ClassIds
from dist_seg.data.codecs.encoded import UNKNOWN, EncodedSample, EncodedTarget, LayerMap, TargetClasses, ValueMap
from dist_seg.data.codecs.headers import UndecodableError
from dist_seg.data.codecs.label_layers import LabelLayers
from dist_seg.data.codecs.object_layers import ObjectLayers, RawObject, encode_instances
from dist_seg.data.codecs.targets import TASKS, mask_kind, read_sample, target_kind
from dist_seg.masks.rle import encode_masks
from tests.loader_cases import encode, scene

NUM_CLASSES = 3
HEIGHT, WIDTH = 20, 30
PALETTE = ((1, 1, 1), (200, 0, 0), (0, 200, 0))
CLASSES = TargetClasses.as_packed(NUM_CLASSES, 255)


def masks() -> NDArray[np.bool_]:
    """(3, H, W): a mask for each class; the first two overlap."""
    found = np.zeros((NUM_CLASSES, HEIGHT, WIDTH), np.bool_)
    found[0, 2:10, 2:10] = found[1, 5:12, 5:20] = found[2, 14:18, 3:6] = True
    return found


def encoded_target(task: str) -> EncodedTarget:
    match task:
        case "semantic":
            mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
            for class_id, part in enumerate(masks()):
                mask[part] = class_id
            return mask_kind(task, CLASSES).encode(mask)
        case "multilabel":
            labels = masks().astype(np.uint8)
            labels[:, 0] = 255
            return mask_kind(task, CLASSES).encode(labels)
    rles = [rle for rle, _ in encode_masks(masks())]
    objects = [RawObject(id=10 + i, class_id=i, crowd=False, rle=rle) for i, rle in enumerate(rles)]
    return encode_instances(objects, height=HEIGHT, width=WIDTH, num_classes=NUM_CLASSES, image_id=1, file_name="x.png")


def packed(task: str, classes: TargetClasses = CLASSES) -> EncodedSample:
    target = encoded_target(task)
    members = [encode(scene(0, HEIGHT, WIDTH)[0], "PNG"), target.data]
    if target.annotations is not None:
        members.append(target.annotations.to_json())
    return read_sample(members, target_kind(task, classes), None, key="k", height=HEIGHT, width=WIDTH)


def test_every_task_has_a_kind_of_target() -> None:
    assert [type(target_kind(task, CLASSES)) for task in TASKS] == [ClassIds, LabelLayers, ObjectLayers]
    with pytest.raises(ValueError, match="no kind of mask for the task 'depth'"):
        target_kind("depth", CLASSES)


@pytest.mark.parametrize("task", TASKS)
class TestEveryKind:
    def test_a_region_is_a_part_of_the_whole(self, task: str) -> None:
        sample = packed(task)
        whole = sample.kind.decode(sample)
        assert np.array_equal(sample.kind.decode(sample, (3, 4, 10, 12)), whole[..., 3:13, 4:16])

    def test_a_foreign_value_is_refused(self, task: str) -> None:
        sample = packed(task)
        ids = sample.kind.decode(sample).copy()
        sample.kind.check(ids, sample)
        ids[..., 0, 0] = 77
        with pytest.raises(UndecodableError, match="77"):
            sample.kind.check(ids, sample)

    def test_a_target_of_another_size_is_refused(self, task: str) -> None:
        sample = packed(task)
        rest = [sample.annotations.to_json()] if sample.annotations else []
        with pytest.raises(UndecodableError, match=r"mask: 30x\d+ pixels, the image has 31x20"):
            sample.kind.read([sample.target, *rest], HEIGHT, WIDTH + 1)

    def test_inspection_counts_the_pixels_that_packing_counted(self, task: str) -> None:
        sample = packed(task)
        found = sample.kind.contents(sample)
        assert tuple(found.class_pixels.tolist()) == encoded_target(task).class_pixels
        assert found.layers.dtype == np.int16 and found.layers.shape[1:] == (HEIGHT, WIDTH)
        assert int((found.layers == UNKNOWN).sum()) == encoded_target(task).ignored_pixels
        assert (found.objects is not None) == sample.kind.has_objects

    def test_it_is_drawn_small_with_a_legend(self, task: str) -> None:
        sample = packed(task)
        drawn = sample.kind.draw(sample, scene(0, HEIGHT, WIDTH)[0], PALETTE, lambda picture: picture[::2, ::2])
        assert drawn.picture.shape == (HEIGHT // 2, WIDTH // 2, 3) and drawn.picture.dtype == np.uint8
        legend = sample.kind.legend(list(zip("abc", PALETTE, strict=True)), [drawn])
        assert [name for name, _ in legend][:NUM_CLASSES] == ["a", "b", "c"]

    def test_classes_that_stay_need_no_map(self, task: str) -> None:
        assert packed(task).kind.class_map is None


NEW_IDS = np.full(256, 255, np.uint8)
NEW_IDS[:3] = (1, 255, 1)
MAPPED = replace(CLASSES, num_classes=2, new_ids=NEW_IDS)


def test_classes_of_a_run_are_given_as_a_table_or_as_layers_or_with_the_objects() -> None:
    semantic, labels = packed("semantic", MAPPED).kind.class_map, packed("multilabel", MAPPED).kind.class_map
    assert isinstance(semantic, ValueMap) and semantic.table is NEW_IDS
    assert labels == LayerMap(sources=((), (0, 2)))
    annotations = packed("instance", MAPPED).annotations
    assert annotations is not None
    assert [(found.class_id, found.crowd) for found in annotations.objects] == [(1, False), (-1, True), (1, False)]


def test_an_object_of_a_class_that_is_not_there_is_neither_measured_nor_drawn() -> None:
    sample = packed("instance")
    assert sample.annotations is not None
    wrong = replace(sample.annotations.objects[0], class_id=NUM_CLASSES)
    sample = replace(sample, annotations=replace(sample.annotations, objects=(wrong, *sample.annotations.objects[1:])))
    with pytest.raises(UndecodableError, match="class 3, the data set has 3 classes"):
        sample.kind.contents(sample)
    with pytest.raises(UndecodableError, match="class 3, the data set has 3 classes"):
        sample.kind.draw(sample, scene(0, HEIGHT, WIDTH)[0], PALETTE, lambda picture: picture)


def test_objects_without_annotations_are_refused() -> None:
    sample = packed("instance")
    with pytest.raises(UndecodableError, match="json: is missing"):
        sample.kind.read([sample.target], HEIGHT, WIDTH)
