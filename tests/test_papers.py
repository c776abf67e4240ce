"""Every other paper at smoke size, as a reader runs it; `myong2023` is in test_pipeline."""

from pathlib import Path

import pytest

from cxr_companion.report.pipeline import Request, listed
from tests.conftest import copy_checkout, cxr


@pytest.mark.parametrize("paper", ("segal2021", "dong2022", "kim2022"))
def test_a_paper_runs(tmp_path, paper, monkeypatch):
    copy_checkout(tmp_path)
    for name in ("figures", "results"):
        (tmp_path / name).mkdir()
    done = cxr(tmp_path, "figures", "--paper", paper, "--preset", "smoke", "--cores", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("CXR_HOME", str(tmp_path))
    made = [Path(file) for experiment in listed(Request(paper, "smoke")) for file in experiment.outputs]
    assert made and all(file.stat().st_size for file in made)
