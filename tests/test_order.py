"""Imports point down: a room imports only the rooms it may, a chapter only lower chapters of its room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr_companion"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if re.search(r"File to edit:", p.read_text()))
MAY = {
    "core": (), "stats": ("core",), "phantom": ("core", "stats"), "data": ("core",), "networks": ("core",),
    "stargan": ("core", "data", "networks"), "pggan": ("core", "data", "networks"), "markers": ("core", "data", "networks"),
    "classify": ("core", "stats", "data", "networks"), "evaluate": ("core", "stats", "data", "networks", "classify"),
    "report": ("core", "stats", "phantom", "data", "networks", "stargan", "pggan", "markers", "classify", "evaluate"),
}  # fmt: skip
NO_TORCH = ("stats", "phantom")


def place(path: Path) -> tuple[int, int]:
    room, chapter = re.search(r"nbs/(\d\d)_\w+/(\d\d)_\w+\.ipynb", path.read_text()).groups()
    return int(room), int(chapter)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Names that a module imports, at its top or inside functions, absolute or relative."""
    found, parts = set(), path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = [*parts[: len(parts) - node.level], *filter(None, [node.module])] if node.level else [node.module]
            found |= {".".join(above)} | {".".join([*above, alias.name]) for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_down(path):
    check(path, imports(path))


def check(path: Path, names: set[str]) -> None:
    """Fail when a module imports what it may not: another room, torch, a later chapter."""
    known = {dotted(p): p for p in MODULES}
    room = dotted(path).split(".")[1]
    for name in names:
        parts = name.split(".")
        if room in NO_TORCH:
            assert parts[0] not in ("torch", "torchvision"), f"{room} must not import {parts[0]}"
        if parts[0] != "cxr_companion" or len(parts) < 2:
            continue
        assert parts[1] == room or parts[1] in MAY[room], f"{room} must not import {parts[1]}"
        if name in known and known[name] != path and name.count(".") > 1:
            assert place(known[name]) < place(path), f"{dotted(path)} imports {name}, which comes later"


def test_an_upward_import_is_seen(tmp_path):
    """The reader of imports sees both forms, also inside functions."""
    file = PACKAGE / "core" / "paths.py"
    source = "def f():\n    from cxr_companion.report import cli\n    import cxr_companion.data.cohort\n    from ..stats.roc import auroc\n"
    probe = type("Probe", (), {"relative_to": file.relative_to, "read_text": lambda self: source})()
    assert {"cxr_companion.report.cli", "cxr_companion.data.cohort", "cxr_companion.stats.roc"} <= imports(probe)


@pytest.mark.parametrize(
    "chapter, name",
    (
        ("core/paths", "cxr_companion.report.cli"),
        ("data/cohort", "cxr_companion.phantom.film"),
        ("data/cohort", "cxr_companion.data.splits"),
        ("phantom/film", "torch"),
    ),
)
def test_a_forbidden_import_fails(chapter, name):
    with pytest.raises(AssertionError):
        check(PACKAGE / f"{chapter}.py", {name})
