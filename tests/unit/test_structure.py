"""Rules that the whole package keeps: which part imports which, and what the command line may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dist_seg"
# Rooms on one level do not import each other; a room imports only from levels before its own.
LEVELS = [
    {"__init__"},
    {"errors"},
    {"config"},
    {"masks"},
    {"storage"},
    {"runtime"},
    {"distributed"},
    {"data", "models", "losses", "metrics", "checkpoint", "telemetry"},
    {"tasks"},
    {"runs", "capacity"},
    {"engine", "predict", "report", "launchers"},
    {"training"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
# All that the rooms below data/ import, each but itself.
BASE = {
    "errors": set(),
    "config": {"errors"},
    "masks": {"errors"},
    "storage": {"errors", "config"},
    "runtime": {"errors", "config"},
    "distributed": {"errors", "runtime"},
}
# The same as LEVELS, inside data/ and of the modules of cli/.
DATA_LEVELS = [
    {"codecs"},
    {"shards", "raw"},
    {"formats", "packing", "view", "inspection"},
    {"plan", "indexing"},
    {"loading"},
]
CLI_LEVELS = [{"__init__"}, {"options"}, {"pack", "data", "train", "run"}, {"main"}]
ONE_MODULE_EACH = {
    "nvidia": "data/loading/dali.py",
    "prometheus_client": "telemetry/prometheus.py",
    "tensorboard": "telemetry/tensorboard.py",
    "obstore": "storage/object_store.py",
    "deepspeed": "engine/strategies/deepspeed.py",
    "tifffile": "data/raw/array_images.py",
    "imagecodecs": "data/raw/array_images.py",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "dist_seg":
                names.update(f"dist_seg.{alias.name}" for alias in node.names)
    return names


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level_of(part: str, levels: list[set[str]]) -> int:
    return next(number for number, parts in enumerate(levels) if part in parts)


def wrong_imports(file: Path, package: Path, prefix: str, levels: list[set[str]]) -> list[str]:
    """What a file below `package` imports from its own level or from one above it."""
    part = file.relative_to(package).parts[0].removesuffix(".py")
    wrong = []
    for name in sorted(imported(file)):
        if not name.startswith(f"{prefix}."):
            continue
        other = name.removeprefix(f"{prefix}.").split(".")[0]
        if other not in (part, "__version__") and level_of(other, levels) >= level_of(part, levels):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    assert wrong_imports(file, PACKAGE, "dist_seg", LEVELS) == []


@pytest.mark.parametrize(
    "file",
    [file for file in modules() if part_of(file) == "data" and file.parent != PACKAGE / "data"],
    ids=lambda file: str(file.relative_to(PACKAGE)),
)
def test_imports_inside_data_go_one_way(file: Path) -> None:
    assert wrong_imports(file, PACKAGE / "data", "dist_seg.data", DATA_LEVELS) == []


@pytest.mark.parametrize("room", BASE)
def test_the_lowest_rooms_import_little(room: str) -> None:
    names = {name for file in modules() if part_of(file) == room for name in imported(file)}
    rooms = {name.split(".")[1] for name in names if name.startswith("dist_seg.")}
    assert rooms <= BASE[room] | {room}


@pytest.mark.parametrize("file", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda file: file.name)
def test_imports_of_the_command_line_go_one_way(file: Path) -> None:
    assert wrong_imports(file, PACKAGE / "cli", "dist_seg.cli", CLI_LEVELS) == []


def test_every_room_has_a_level_and_data_holds_rooms_alone() -> None:
    rooms = {part_of(file) for file in modules()}
    assert rooms == set().union(*LEVELS)
    assert {file.parent.name for file in (PACKAGE / "data").glob("*/__init__.py")} == set().union(*DATA_LEVELS)
    assert [file.name for file in (PACKAGE / "data").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    ("room", "line", "found"),
    [
        ("masks", "from dist_seg.data.shards.manifest import Manifest", "dist_seg.data.shards.manifest"),
        ("models", "import dist_seg.losses", "dist_seg.losses"),
        ("tasks", "def late() -> None:\n    from dist_seg.engine.run import run_training", "dist_seg.engine.run"),
        ("engine", "from dist_seg import training", "dist_seg.training"),
    ],
)
def test_a_planted_import_that_goes_up_is_found(tmp_path: Path, room: str, line: str, found: str) -> None:
    planted = tmp_path / room / "planted.py"
    planted.parent.mkdir()
    planted.write_text(f"{line}\n")
    assert found in wrong_imports(planted, tmp_path, "dist_seg", LEVELS)


def test_a_planted_import_that_goes_up_inside_data_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "shards" / "planted.py"
    planted.parent.mkdir()
    planted.write_text("from dist_seg.data.view.selection import Selection\n")
    assert wrong_imports(planted, tmp_path, "dist_seg.data", DATA_LEVELS) == ["dist_seg.data.view.selection"]


def test_configuration_never_imports_torch() -> None:
    files = [file for file in modules() if part_of(file) == "config"]
    assert files
    assert not any(name.split(".")[0] == "torch" for file in files for name in imported(file))


@pytest.mark.parametrize("library", ONE_MODULE_EACH)
def test_optional_library_is_imported_by_one_module(library: str) -> None:
    importers = {
        str(file.relative_to(PACKAGE))
        for file in modules()
        if any(name.split(".")[0] == library for name in imported(file))
    }
    assert importers <= {ONE_MODULE_EACH[library]}


READS_ENVIRONMENT = {"runtime", "distributed", "launchers"}


def _uses_environment(file: Path) -> bool:
    tree = ast.parse(file.read_text())
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
        for node in ast.walk(tree)
    )


def test_environment_variables_are_used_in_few_rooms_only() -> None:
    users = {part_of(file) for file in modules() if _uses_environment(file)}
    assert users <= READS_ENVIRONMENT
    assert "distributed" in users  # else the search finds nothing


COMMANDS = [
    "",
    "pack",
    "pack camvid",
    "pack folder",
    "pack coco",
    "pack synthetic",
    "pack reader",
    "verify",
    "inspect",
    "preview",
    "train",
]
COMMANDS += [f"pack {layout}" for layout in ("voc", "cityscapes", "ade20k", "coco-panoptic", "coco-stuff", "labelme")]
COMMANDS += [
    "merge",
    "pack labels",
    "pack instances",
    "pack cityscapes-instances",
    "eval",
    "predict",
    "report",
    "audit",
    "checkpoint",
]
COMMANDS += [f"checkpoint {action}" for action in ("ls", "show", "verify", "prune", "export")]


def test_help_of_every_command_is_complete_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from dist_seg.cli.main import build_parser\n"
        f"for command in {COMMANDS!r}:\n"
        "    try:\n"
        "        build_parser().parse_args([*command.split(), '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "heavy = {'torch', 'nvidia', 'numpy', 'PIL', 'timm', 'matplotlib', 'msgspec', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for text in ("usage: dist-seg train", "--group-by", "--dry-run", "exit codes", "RUN_A", "--weights"):
        assert text in result.stdout
