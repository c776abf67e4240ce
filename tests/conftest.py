"""Shared by all tests: where the checkout is, a copy of it to run the pipeline in, and the folder of real films."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from cxr_companion.report.runs import fresh_checkout

ROOT = Path(__file__).resolve().parents[1]


CXR = [sys.executable, "-c", "from cxr_companion.report.cli import app; app()"]


def cxr(home: Path, *words: str, timeout: float = 900, **settings) -> subprocess.CompletedProcess:
    """Run the command line in a copy of the checkout."""
    environment = {**os.environ, "CXR_HOME": str(home)}
    return subprocess.run(
        [*CXR, *words], cwd=home, env=environment, capture_output=True, text=True, timeout=timeout, **settings
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A copy of the checkout without build/, named by CXR_HOME, so that tests never touch the real one."""
    fresh_checkout(tmp_path)
    for name in ("figures", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, dirs_exist_ok=True)
    monkeypatch.setenv("CXR_HOME", str(tmp_path))
    return tmp_path


LONG = ("test_pipeline.py", "test_papers.py", "test_real.py", "test_six.py")


@cache
def gpu_here() -> bool:
    """Whether PyTorch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    """Put the longest files first, so that no process ends alone, and mark the tests that try many damaged inputs: `make soak` runs them with CXR_FUZZ=2000 cases each."""
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")
        if item.get_closest_marker("gpu") and not gpu_here():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture
def real_films() -> Path:
    """The folder of real films, named by CXR_REAL; tests that need it are skipped by name where it is unset."""
    folder = os.environ.get("CXR_REAL")
    if not folder:
        pytest.skip("CXR_REAL is unset: no folder of real films here")
    return Path(folder)
