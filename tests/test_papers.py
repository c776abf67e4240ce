"""Every other paper at smoke size, as a reader runs it; `myong2023` is in test_pipeline."""

from pathlib import Path

import pytest

from cxr_companion.report.pipeline import Request, listed
from cxr_companion.report.runs import fresh_checkout
from tests.conftest import cxr


@pytest.mark.parametrize(
    ("paper", "topic"),
    (("segal2021", "latent_class_optimisation"), ("dong2022", "compare_networks"), ("kim2022", "binary")),
)
def test_a_paper_runs(tmp_path, paper, topic, monkeypatch):
    """A paper's main experiment and what it needs; `make soak` runs every paper whole, twice, and compares the bytes."""
    fresh_checkout(tmp_path)
    done = cxr(tmp_path, "figures", "--paper", paper, "--topic", topic, "--preset", "smoke", "--cores", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("CXR_HOME", str(tmp_path))
    made = [Path(file) for e in listed(Request(paper, "smoke", topics=(topic,))) for file in e.outputs]
    assert made and all(file.stat().st_size for file in made)


def test_gpus_are_asked_for_where_one_model_trains_on_several():
    """`--set gpus=4` reaches the generators' trainings, and a cluster is asked for as many."""
    asked = {e.topic: e.accelerators for e in listed(Request("all", "paper", overrides={"gpus": 4}))}
    assert (asked.pop("train_stargan"), asked.pop("train_pggan"), max(asked.values())) == (4, 4, 1)
