"""Benchmarks are run by hand, so nothing else notices when what they import is gone."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imported(source: str) -> list[tuple[str, str]]:
    """Names that code takes from the package: in modules, in functions, and in code that it hands to another process."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cxr_companion"):
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "from cxr_companion" in node.value:
            found += imported(node.value)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_what_a_benchmark_imports_is_there(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").main)
    names = imported((FOLDER / f"{name}.py").read_text())
    assert names
    for module, word in names:
        assert hasattr(importlib.import_module(module), word), f"{module} has no {word}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_training_benchmark_updates_in_the_precision_it_names(precision, monkeypatch):
    training = importlib.import_module("benchmarks.training")
    monkeypatch.setattr(training, "SIDE", 32), monkeypatch.setattr(training, "BATCH", 4)
    films = training.films()
    terms = training.our_loop(films, precision)(0)
    assert terms["loss"] > 0
    training.plain_loop(films)(0)
