"""LabelMe's files: shapes exact to the pixel, labels as classes, and every fault reported."""

import base64
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dist_seg.data.formats.labelme.shapes import LabelmeFile, Shape, draw_shapes
from dist_seg.data.formats.labelme.source import LabelmeSource, open_labelme
from dist_seg.data.packing.options import PackOptions
from dist_seg.data.packing.pack import pack
from dist_seg.data.raw.source import RawReading
from dist_seg.data.raw.splitting import Dividing
from dist_seg.errors import DataError

from ...raw_data import encoded, picture, write_image

HEIGHT, WIDTH = 20, 30

Entry = dict[str, object]

_SQUARE = [[2, 3], [7, 3], [7, 8], [2, 8]]


def _shape(label: object = "cat", points: object = _SQUARE, kind: str | None = "polygon", **changes: object) -> Entry:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **changes}


def _write(root: Path, stem: str, *shapes: Entry, image: bool = True, **changes: object) -> Path:
    file = root / f"{stem}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if image:
        write_image(file.with_suffix(".png"), picture(HEIGHT, WIDTH))
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{file.stem}.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **changes,
    }
    file.write_text(json.dumps(document))
    return file


def _open(root: Path, *, dividing: Dividing = Dividing(val=0.0), **options: object) -> LabelmeSource:
    return open_labelme(root, dividing=dividing, **options)  # type: ignore[arg-type]


def _mask(source: LabelmeSource) -> NDArray[np.integer]:
    (sample,) = source.samples()
    return pickle.loads(pickle.dumps(source)).load(sample).mask


def _drawn(*shapes: Shape, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Draw shapes whose labels `1`, `2`, ... are class ids."""
    file = LabelmeFile(height=height, width=width, shapes=shapes, image_path="", image_data=None)
    return draw_shapes(file, {str(i): i for i in range(1, 10)}, 0, "f.json")


class TestShapes:
    def test_a_polygon_has_the_pixels_on_its_outline_and_inside(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape())
        expected = np.zeros((HEIGHT, WIDTH), int)
        expected[3:9, 2:8] = 1
        assert np.array_equal(_mask(_open(tmp_path)), expected)

    @pytest.mark.parametrize("points", [[[2, 3], [4, 5]], [[4, 3], [2, 5]], [[4, 5], [2, 3]]])
    def test_a_rectangle_has_its_corners_pixels_whichever_two_they_are(
        self, tmp_path: Path, points: list[list[int]]
    ) -> None:
        _write(tmp_path, "a", _shape(points=points, kind="rectangle"))
        expected = np.zeros((HEIGHT, WIDTH), int)
        expected[3:6, 2:5] = 1
        assert np.array_equal(_mask(_open(tmp_path)), expected)

    def test_a_circle_goes_through_its_second_point(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape(points=[[15, 10], [12, 6]], kind="circle"))  # radius 5
        mask = _mask(_open(tmp_path))
        assert [mask[10, x] for x in (9, 10, 15, 20, 21)] == [0, 1, 1, 1, 0]
        assert [mask[y, 15] for y in (4, 5, 15, 16)] == [0, 1, 1, 0]
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        distance = np.hypot(x - 15, y - 10)
        assert mask[distance < 4.5].all() and not mask[distance > 5.5].any()

    def test_a_circle_may_go_over_the_edge(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape(points=[[0, 0], [3, 0]], kind="circle"))
        mask = _mask(_open(tmp_path))
        assert [mask[0, x] for x in (0, 3, 4)] == [1, 1, 0]

    def test_later_shapes_lie_on_top(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"), _shape("ant", [[4, 4], [5, 5]], "rectangle", group_id=3))
        mask = _mask(_open(tmp_path))  # classes: background, ant, cat
        assert (mask[3, 2], mask[4, 4], mask[5, 5], mask[6, 6]) == (2, 1, 1, 2)

    def test_a_shape_without_a_type_is_a_polygon(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape(kind=None))
        assert _mask(_open(tmp_path)).sum() == 36

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("123"),
                st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=3, max_size=7),
            ),
            max_size=4,
        )
    )
    def test_polygons_are_drawn_as_labelme_exports_them(
        self, polygons: list[tuple[str, list[tuple[float, float]]]]
    ) -> None:
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for label, points in polygons:  # LabelMe draws a mask for every shape and lays it over the class ids
            alone = Image.new("1", (WIDTH, HEIGHT))
            ImageDraw.Draw(alone).polygon(points, outline=1, fill=1)
            expected[np.asarray(alone)] = int(label)
        shapes = [Shape(label=label, shape_type="polygon", points=tuple(points)) for label, points in polygons]
        assert np.array_equal(_drawn(*shapes), expected)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1)), min_size=3, max_size=6))
    def test_what_lies_well_inside_a_polygon_is_in_it_and_what_lies_well_outside_is_not(
        self, corners: list[tuple[int, int]]
    ) -> None:
        centre = np.mean(corners, axis=0)
        angles = np.arctan2(*(np.array(corners) - centre).T[::-1])
        ring = np.array(corners, float)[np.argsort(angles, kind="stable")]  # around its centre
        mask = _drawn(Shape(label="1", shape_type="polygon", points=tuple((x, y) for x, y in ring.tolist())))
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
        inside, nearest = np.zeros((HEIGHT, WIDTH), bool), np.full((HEIGHT, WIDTH), np.inf)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
            along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)))
            crosses = (y0 <= y) != (y1 <= y)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        assert mask[inside & (nearest > 1)].all()
        assert not mask[~inside & (nearest > 1)].any()

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            (_shape(kind="point", points=[[1, 1]]), r"shape 1 \('cat'\): shapes of type 'point' have no area"),
            (_shape(kind="linestrip"), r"shapes of type 'linestrip'"),
            (_shape(kind="mask", points=[[1, 1], [2, 2]]), r"shapes of type 'mask'"),
            (_shape(points=[[1, 1], [2, 2]]), r"a polygon of 2 corners; it needs at least three"),
            (_shape(kind="rectangle"), r"a rectangle of 4 points; it needs two"),
            (_shape(kind="circle", points=[[1, 1]]), r"a circle of 1 points; it needs two"),
            (_shape(points=[[1, 1], [2, 2], [31.5, 4]]), r"its point \(31\.5, 4\) lies outside the image of 30x20"),
            (_shape(points=[[1, 1], [2, 2], [4, -2]]), r"its point \(4, -2\) lies outside the image of 30x20"),
        ],
    )
    def test_what_has_no_area_or_lies_outside_is_refused_by_name_or_left_out(
        self, tmp_path: Path, shape: Entry, message: str
    ) -> None:
        _write(tmp_path, "a", shape)
        _write(tmp_path, "b", _shape())
        with pytest.raises(DataError, match=r"a\.json: .*" + message):
            pack(_open(tmp_path), tmp_path / "out")
        result = pack(_open(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
        assert [refusal.key for refusal in result.skipped] == ["a"]
        assert result.manifest.splits["train"].num_samples == 1

    def test_corners_up_to_a_pixel_outside_are_taken(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape(points=[[-1, -1], [WIDTH + 1, -1], [WIDTH + 1, HEIGHT + 1], [-1, HEIGHT + 1]]))
        assert (_mask(_open(tmp_path)) == 1).all()


class TestClasses:
    def test_labels_found_are_sorted_behind_the_background(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("dog"), _shape("ant"))
        _write(tmp_path, "b", _shape("cat"))
        source = _open(tmp_path)
        assert source.class_names == ("_background_", "ant", "cat", "dog")
        assert source.notes == ("no labels.txt: classes by the labels found in shapes: _background_, ant, cat, dog",)

    @pytest.mark.parametrize("label", ["_background_", "background"])
    def test_a_shape_of_the_background_is_background(self, tmp_path: Path, label: str) -> None:
        _write(tmp_path, "a", _shape("Cat"), _shape(label, [[2, 3], [3, 3]], "rectangle"))
        source = _open(tmp_path)
        assert source.class_names == (label, "Cat")
        mask = _mask(source)
        assert (mask[3, 2], mask[3, 4], mask[0, 0]) == (0, 1, 0)

    @pytest.mark.parametrize("label", ["__ignore__", "ignore", "Void"])
    def test_a_shape_to_ignore_is_no_class(self, tmp_path: Path, label: str) -> None:
        _write(tmp_path, "a", _shape("cat"), _shape(label, [[2, 3], [3, 3]], "rectangle"))
        source = _open(tmp_path)
        assert source.class_names == ("_background_", "cat")
        assert _mask(source)[3, 2:5].tolist() == [255, 255, 1]

    @pytest.mark.parametrize("place", [".", ".."])
    def test_a_list_of_labels_says_their_order(self, tmp_path: Path, place: str) -> None:
        root = tmp_path / "data"
        _write(root, "a", _shape("cat"), _shape("__ignore__", [[2, 3], [2, 3]], "rectangle"))
        (root / place / "labels.txt").write_text("__ignore__\n_background_\nzebra\ncat\n")
        source = _open(root)
        assert source.class_names == ("_background_", "zebra", "cat")
        assert _mask(source)[3, 1:4].tolist() == [0, 255, 2]
        assert source.notes[0].startswith("classes from ") and source.notes[0].endswith("labels.txt")

    def test_without_background_in_the_list_it_comes_first(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"))
        (tmp_path / "mine.txt").write_text("cat\ndog\n")
        source = _open(tmp_path, classes=tmp_path / "mine.txt")
        assert source.class_names == ("_background_", "cat", "dog")

    @pytest.mark.parametrize("label", ["__ignore__", "void", "Ignore"])
    def test_a_shape_to_ignore_need_not_be_listed(self, tmp_path: Path, label: str) -> None:
        _write(tmp_path, "a", _shape("cat"), _shape(label, [[2, 3], [2, 3]], "rectangle"))
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        source = _open(tmp_path)
        assert source.class_names == ("_background_", "cat", "dog")
        assert _mask(source)[3, 2] == 255

    def test_the_meaning_of_labels_and_of_the_rest_is_told(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"), _shape("void"))
        meaning = _open(tmp_path, unlabelled="ignore").meaning
        assert (meaning["label"], meaning["pixels"]) == (
            {"cat": "cat", "void": None, "__ignore__": None},
            {"under no shape": None},
        )

    def test_pixels_without_a_shape_may_be_ignored(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"))
        source = _open(tmp_path, unlabelled="ignore")
        assert source.class_names == ("cat",)
        assert _mask(source)[3, :4].tolist() == [255, 255, 0, 0]

    def test_a_label_outside_the_list_is_named_with_its_file_and_shape(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"), _shape("cow"))
        (tmp_path / "labels.txt").write_text("cat\n")
        with pytest.raises(DataError, match=r"a\.json: shape 2 \('cow'\): its label is not among the classes \(.*cat"):
            pack(_open(tmp_path), tmp_path / "out")

    def test_a_label_that_comes_twice_is_refused(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"))
        (tmp_path / "labels.txt").write_text("cat\ncat\n")
        with pytest.raises(DataError, match=r"labels\.txt: class 'cat' is listed twice"):
            _open(tmp_path)

    def test_no_shape_anywhere_is_refused(self, tmp_path: Path) -> None:
        _write(tmp_path, "a")
        with pytest.raises(DataError, match=r"no file has a shape, so there are no classes"):
            _open(tmp_path)

    def test_an_image_without_shapes_is_all_background(self, tmp_path: Path) -> None:
        _write(tmp_path, "a")
        (tmp_path / "labels.txt").write_text("cat\n")
        assert not _mask(_open(tmp_path)).any()

    def test_other_classes_are_another_version_of_the_samples(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape("cat"))
        versions = {_open(tmp_path, unlabelled=way).samples()[0].version for way in ("background", "ignore")}
        assert len(versions) == 2

    def test_the_version_has_the_image_before_the_file_in_every_process(self, tmp_path: Path) -> None:
        for stem in "abcdefgh":  # a set of two paths has either order
            _write(tmp_path, stem, _shape("cat"))
        for sample in _open(tmp_path).samples():
            files = (Path(sample.where), Path(sample.mask_where))
            assert sample.version.startswith(" ".join(f"{f.stat().st_size}@{f.stat().st_mtime_ns}" for f in files))


class TestImages:
    def test_an_image_in_the_file_is_packed_byte_for_byte(self, tmp_path: Path) -> None:
        data = encoded(Image.fromarray(picture(HEIGHT, WIDTH)), "JPEG", quality=90)
        _write(tmp_path, "a", _shape(), image=False, imageData=base64.b64encode(data).decode())
        source = _open(tmp_path)
        (sample,) = source.samples()
        assert source.load(sample).image == data
        assert pack(source, tmp_path / "out").manifest.splits["train"].class_pixels == (564, 36)

    def test_it_goes_before_the_one_beside_the_file(self, tmp_path: Path) -> None:
        data = encoded(Image.fromarray(picture(HEIGHT, WIDTH, seed=1)), "PNG")
        _write(tmp_path, "a", _shape(), imageData=base64.b64encode(data).decode())
        source = _open(tmp_path)
        assert source.load(source.samples()[0]).image == data

    @pytest.mark.parametrize("path", ["../images/x.png", "..\\images\\x.png"])
    def test_an_image_elsewhere_below_the_folder_is_found(self, tmp_path: Path, path: str) -> None:
        write_image(tmp_path / "images" / "x.png", picture(HEIGHT, WIDTH))
        _write(tmp_path, "labels/a", _shape(), image=False, imagePath=path)
        source = _open(tmp_path)
        (sample,) = source.samples()
        assert (sample.key, sample.where) == ("labels/a", str(tmp_path / "images" / "x.png"))
        assert source.load(sample).image == (tmp_path / "images" / "x.png").read_bytes()

    def test_the_size_must_be_that_of_the_upright_image(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        jpeg = encoded(Image.fromarray(picture(WIDTH, HEIGHT)), "JPEG", exif=exif.tobytes())
        _write(tmp_path, "a", _shape(), image=False, imageData=base64.b64encode(jpeg).decode())
        pack(_open(tmp_path), tmp_path / "out")
        assert len(_open(tmp_path, apart_from=tmp_path / "out").samples()) == 1
        size = {"imageHeight": WIDTH, "imageWidth": HEIGHT}
        _write(tmp_path, "a", _shape(), image=False, imageData=base64.b64encode(jpeg).decode(), **size)
        with pytest.raises(DataError, match=r"a\.json: the mask is 20x30 .* 30x20 upright \(was the mask drawn on"):
            pack(_open(tmp_path, apart_from=tmp_path / "out"), tmp_path / "other")

    @pytest.mark.parametrize("size", [{}, {"imageHeight": None, "imageWidth": None}, {"imageHeight": HEIGHT}])
    @pytest.mark.parametrize("embedded", [False, True])
    def test_a_file_without_a_size_has_that_of_the_upright_image(
        self, tmp_path: Path, size: dict[str, object], embedded: bool
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        jpeg = encoded(Image.fromarray(picture(WIDTH, HEIGHT)), "JPEG", exif=exif.tobytes())
        data = base64.b64encode(jpeg).decode() if embedded else None
        file = _write(tmp_path, "a", _shape(), image=False, imagePath="a.jpg", imageData=data)
        if not embedded:
            (tmp_path / "a.jpg").write_bytes(jpeg)
        document = json.loads(file.read_text())
        del document["imageHeight"], document["imageWidth"]
        file.write_text(json.dumps({**document, **size}))
        assert pack(_open(tmp_path), tmp_path / "out").manifest.splits["train"].class_pixels == (564, 36)
        with pytest.raises(DataError, match=r"20x30 pixels are more than the allowed 599"):
            _mask(_open(tmp_path, reading=RawReading(max_pixels=599), apart_from=tmp_path / "out"))

    def test_the_limit_of_pixels_is_checked_before_drawing(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape(), imageHeight=10**6, imageWidth=10**6)
        with pytest.raises(DataError, match=r"a\.json: 1000000x1000000 pixels are more than the allowed 178956970"):
            _mask(_open(tmp_path))


class TestDataSet:
    def test_groups_stay_on_one_side(self, tmp_path: Path) -> None:
        for group in "abcdef":
            for number in range(3):
                _write(tmp_path, f"{group}_{number}", _shape())
        samples = open_labelme(tmp_path, dividing=Dividing(val=0.4, group_by="^(.)_")).samples()
        sides = {(sample.key[0], sample.split) for sample in samples}
        assert len(sides) == 6 and {split for _, split in sides} == {"train", "val"}

    def test_folders_of_splits_are_the_splits(self, tmp_path: Path) -> None:
        for stem in ("train/a", "val/a"):
            _write(tmp_path, stem, _shape())
        assert [(s.key, s.split) for s in open_labelme(tmp_path).samples()] == [("train/a", "train"), ("val/a", "val")]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"imagePath": "x.png"}, r"a\.json: its imagePath .*x\.png does not exist"),
            (
                {"imagePath": "../x.png"},
                r"a\.json: its imagePath '\.\./x\.png' leads out of .*; pack a folder",
            ),
            ({"imagePath": "C:\\data\\x.png"}, r"a\.json: its imagePath .*x\.png does not exist"),
            ({"imagePath": "/etc/x.png"}, r"a\.json: its imagePath '/etc/x\.png' leads out of"),
            ({"imagePath": "b.png"}, r"b\.json: annotates .*b\.png, as does .*a\.json; an image can have only one"),
            ({"imagePath": None}, r"a\.json: imagePath is None: expected str"),
            ({"shapes": {}}, r"a\.json: shapes is \{\}: expected array"),
            ({"shapes": [{"label": 3, "points": []}]}, r"a\.json: shape 1: label is 3: expected str"),
            (
                {"shapes": [_shape(points=[[1, 2, 3]])]},
                r"a\.json: shape 1: points\[0\] is \[1, 2, 3\]: expected array of length 2",
            ),
            (
                {"shapes": [_shape(points=[[1, float("nan")]])]},
                r"a\.json: shape 1: its point \(1, nan\) must be two finite numbers",
            ),
            (
                {"shapes": [_shape(points=[[1, 10**400]])]},
                r"a\.json: shape 1: points\[0\]\[1\] is 10+: number out of range",
            ),
            ({"imagePath": "b.png\0"}, r"a\.json: its imagePath 'b\.png\\x00' leads out of"),
            ({"imageHeight": 0}, r"a\.json: imageHeight is 0: expected int >= 1"),
            ({"imageWidth": "30"}, r"a\.json: imageWidth is '30': expected int"),
            ({"imageWidth": -3}, r"a\.json: imageWidth is -3: expected int >= 1"),
            ({"imageData": 7}, r"a\.json: imageData is 7: expected str \| null"),
        ],
    )
    def test_a_file_at_fault_is_named_or_left_out(
        self, tmp_path: Path, changes: dict[str, object], message: str
    ) -> None:
        _write(tmp_path, "a", _shape(), image=False, **changes)
        for stem in ("b", "c"):
            _write(tmp_path, stem, _shape())
        with pytest.raises(DataError, match=message + r"(?s:.*)\(--skip-bad\)"):
            _open(tmp_path).samples()
        result = pack(_open(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
        (refusal,) = result.skipped
        assert re.search(message, refusal.reason)

    @pytest.mark.parametrize("path", ["../secret.png", "x/../../secret.png", "../data/../secret.png", "a\0.png"])
    def test_an_image_outside_the_working_directory_is_refused_when_that_is_packed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        write_image(tmp_path / "secret.png", picture(HEIGHT, WIDTH))
        _write(tmp_path / "data", "b", _shape())
        _write(tmp_path / "data", "a", _shape(), image=False, imagePath=path)
        monkeypatch.chdir(tmp_path / "data")
        with pytest.raises(DataError, match=r"a\.json: its imagePath .* leads out of \.;"):
            _open(Path()).samples()

    def test_the_working_directory_may_be_packed_whichever_way_its_images_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        _write(Path(), "labels/a", _shape(), image=False, imagePath="../x.png")
        _write(Path(), "b", _shape(), image=False, imagePath=str(tmp_path / "y.png"))
        for name in ("x.png", "y.png"):
            write_image(tmp_path / name, picture(HEIGHT, WIDTH))
        assert {sample.key for sample in _open(Path()).samples()} == {"labels/a", "b"}

    def test_image_data_that_is_no_base64_is_a_bad_sample(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape(), image=False, imageData="~~~~")
        with pytest.raises(DataError, match=r"a\.json: its imageData is not base64"):
            pack(_open(tmp_path), tmp_path / "out")

    def test_what_is_no_json_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(b"\xff{")
        with pytest.raises(DataError, match=r"a\.json: not JSON"):
            _open(tmp_path)

    def test_a_file_that_cannot_be_read_is_named_among_the_others_at_fault(self, tmp_path: Path) -> None:
        _write(tmp_path, "b", _shape())
        (tmp_path / "a.json").symlink_to(tmp_path / "gone.json")
        with pytest.raises(DataError, match=r"a\.json: cannot be read: No such file(?s:.*)\(--skip-bad\)"):
            _open(tmp_path).samples()

    def test_an_image_without_a_file_is_named_or_left_out(self, tmp_path: Path) -> None:
        _write(tmp_path, "a", _shape())
        write_image(tmp_path / "lone.jpg", picture())
        with pytest.raises(DataError, match=r"lone\.jpg: no JSON file annotates this image(?s:.*)\(--skip-bad\)"):
            _open(tmp_path).samples()
        result = pack(_open(tmp_path, reading=RawReading(skip_bad=True)), tmp_path / "out", PackOptions(skip_bad=True))
        (refusal,) = result.skipped
        assert str(refusal) == f"{tmp_path / 'lone.jpg'}: no JSON file annotates this image"

    def test_a_folder_without_files_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no JSON files; is this a folder of LabelMe files"):
            _open(tmp_path)
        with pytest.raises(DataError, match="no such folder"):
            _open(tmp_path / "x")
