"""Every chapter is a named case; exported cells run from the package, so that coverage sees them."""

import importlib
import os
from itertools import groupby
from pathlib import Path

import pytest
from execnb.shell import CaptureShell
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor

NBS = Path(__file__).resolve().parents[1] / "nbs"
CHAPTERS = sorted(NBS.glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
IMPORTED = (
    "import importlib as _importlib; globals().update("
    '{{k: v for k, v in vars(_importlib.import_module("{0}")).items() if not k.startswith("__")}})'
)


def _module(cell, module):
    directives = getattr(cell, "directives_", None) or {}
    return "cxr_companion." + directives["default_exp"][0] if "default_exp" in directives else module


def _is_left_out(cell) -> bool:
    directives = getattr(cell, "directives_", None) or {}
    never = directives.get("eval:", [""])[0].lower() == "false"
    return cell.cell_type != "code" or never or bool({"slow", "notest"} & set(directives))


def run_chapter(path: Path) -> None:
    notebook, module = NBProcessor(path, procs=FrontmatterProc, process=True).nb, None
    for cell in notebook.cells:
        module = _module(cell, module)
        if module and {"export", "exporti", "exports"} & set(getattr(cell, "directives_", None) or {}):
            cell.source = IMPORTED.format(module.removesuffix(".__init__"))
    importlib.import_module(module.removesuffix(".__init__"))
    CaptureShell(path).run_all(notebook, exc_stop=True, preproc=_is_left_out)


def _room(paths: list[Path]) -> type:
    """Make a class of one room's chapters: pytest-xdist deals out classes, so that rooms run beside each other."""

    @pytest.mark.parametrize("path", paths, ids=lambda p: f"{p.parent.name}/{p.stem}")
    def test_chapter(self, path, monkeypatch):
        monkeypatch.chdir(path.parent)
        before = dict(os.environ)
        try:
            run_chapter(path)
        finally:
            os.environ.clear()
            os.environ.update(before)

    return type("Room", (), {"test_chapter": test_chapter})


for name, paths in groupby(CHAPTERS, lambda path: path.parent.name):
    globals()[f"Test_{name}"] = _room(list(paths))


def test_there_are_chapters():
    assert len(CHAPTERS) > 30
