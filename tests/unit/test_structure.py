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


def level_of(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    part = part_of(file)
    wrong = []
    for name in imported(file):
        if not name.startswith("dist_seg."):
            continue
        other = name.split(".")[1]
        if other == part or other == "__version__":
            continue
        if level_of(other) >= level_of(part):
            wrong.append(name)
    assert wrong == []


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
