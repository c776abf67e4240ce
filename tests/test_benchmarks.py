"""Benchmarks are run by hand, so nothing else notices when what they import is gone."""

import ast
import importlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
RUN = re.findall(r"-m benchmarks\.(\w+)", (FOLDER.parent / "Makefile").read_text())  # what make runs


def imported(source: str) -> list[tuple[str, str]]:
    """Names that code takes from the package: in modules, in functions, and in code that it hands to another process."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("cxr_companion", "tests.")):
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "from cxr_companion" in node.value:
            found += imported(node.value)
    return found


def test_make_runs_them_all():
    assert sorted([*RUN, "measures", "updates"]) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", RUN)
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
    films, real, used = training.films(), training.update_classifier, []
    monkeypatch.setattr(training, "update_classifier", lambda *words: used.append(words[-1]) or real(*words))
    assert training.our_loop(films, precision)(0)["loss"] > 0 and used == [precision]
    training.plain_loop(films)(0)
