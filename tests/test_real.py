"""The command on real radiographs, as a reader types it; skipped by name where CXR_REAL is unset."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import copy_checkout

CXR = [sys.executable, "-c", "from cxr_companion.report.cli import app; app()"]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Run both notebooks on real films in a copy of the checkout, and read the AUROCs."""
    films = os.environ.get("CXR_REAL")
    if not films:
        pytest.skip("CXR_REAL is unset: no folder of real films here")
    home = tmp_path_factory.mktemp("real")
    copy_checkout(home)
    roots = ["--root", f"{films}/cxr8-256", "--test-root", f"{films}/cxr8-1024"]
    done = subprocess.run(
        [*CXR, "figures", "--data", "cxr8", *roots],
        cwd=home, env={**os.environ, "CXR_HOME": str(home)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not (home / "figures").exists() and not (home / "results").exists(), "real films stay in build/"
    table = pd.read_csv(home / "build/runs/cxr8-demo/results/myong2023/classifier_baseline.csv", keep_default_na=False)
    return table[table["metric"] == "auroc"].set_index(["group", "view"])


def test_imagenet_features_reach_the_target(scores):
    """EfficientNet-Lite0's features: AUROC .85 or more for pneumonia on films of other patients."""
    assert scores.loc[("ImageNet features", ""), "value"] >= 0.85
    assert (scores["data"] == "cxr8").all() and set(scores["finding"]) == {"Pneumonia"}


@pytest.mark.parametrize("network", ("ImageNet features", "small network", "acquisition only"))
def test_every_network_is_scored_overall_and_within_each_view(scores, network):
    rows = scores.loc[network]
    assert sorted(rows.index) == ["", "AP", "PA"]
    assert rows.loc[""]["n"] == rows.loc["PA"]["n"] + rows.loc["AP"]["n"] == 220
    assert ((rows["ci_low"] < rows["value"]) & (rows["value"] < rows["ci_high"])).all()
    assert rows["interval"].str.contains("DeLong").all()
