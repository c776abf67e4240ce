"""Real radiographs: what the loader says of them, and the baseline trained on them; skipped by name where CXR_REAL is unset."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from cxr_companion.classify.plausibility import film_fault
from cxr_companion.data import load
from cxr_companion.data.films import read_film
from cxr_companion.data.splits import without_patients_of
from cxr_companion.report.runs import fresh_checkout

BASELINE = """
import json, sys
from cxr_companion.report.pipeline import Request, listed_experiment, run_experiment
run_experiment(listed_experiment(Request(**json.loads(sys.argv[1])), "myong2023", "classifier_baseline"))
"""


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Run the baseline on real films in a copy of the checkout, and read the AUROCs."""
    films = os.environ.get("CXR_REAL")
    if not films:
        pytest.skip("CXR_REAL is unset: no folder of real films here")
    home = tmp_path_factory.mktemp("real")
    fresh_checkout(home)
    roots = dict(root=f"{films}/cxr8-256", test_root=f"{films}/cxr8-1024")
    asked = dict(paper="myong2023", data="cxr8", **roots, overrides={"networks": ["small"]})
    done = subprocess.run(
        [sys.executable, "-c", BASELINE, json.dumps(asked)],
        cwd=home, env={**os.environ, "CXR_HOME": str(home)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    left = [file for name in ("figures", "results") for file in (home / name).rglob("*") if file.is_file()]
    assert not left, f"real films stay in build/: {left}"
    (file,) = home.glob("build/runs/cxr8-demo-*/results/myong2023/classifier_baseline.csv")
    table = pd.read_csv(file, keep_default_na=False)
    return table[table["metric"] == "auroc"].set_index(["group", "view"])


@pytest.mark.soak
def test_imagenet_features_reach_the_target(scores):
    """EfficientNet-Lite0's features: AUROC .87 or more for pneumonia on films of other patients."""
    assert scores.loc[("ImageNet features", ""), "value"] >= 0.87
    assert (scores["data"] == "cxr8").all() and set(scores["finding"]) == {"Pneumonia"}


@pytest.mark.soak
@pytest.mark.parametrize("network", ("ImageNet features", "small network", "acquisition only"))
def test_every_network_is_scored_overall_and_within_each_view(scores, network):
    rows = scores.loc[network]
    assert sorted(rows.index) == ["", "AP", "PA"]
    assert rows.loc[""]["n"] == rows.loc["PA"]["n"] + rows.loc["AP"]["n"] == 220
    assert ((rows["ci_low"] < rows["value"]) & (rows["value"] < rows["ci_high"])).all()
    assert rows["interval"].str.contains("DeLong").all()


def test_real_films_keep_the_599(real_films):
    """The folder of real films: after dropping the test patients, 599 films stay for training."""
    cohort, test = load("cxr8", real_films / "cxr8-256"), load("cxr8", real_films / "cxr8-1024")
    kept = without_patients_of(cohort, test)
    assert (len(cohort), len(test), len(kept)) == (1000, 223, 599)
    manifest = pd.read_csv(real_films / "manifest.csv")
    dev = manifest[(manifest["root"] == "cxr8-256") & (manifest["suggested_use"] == "dev")]["image_id"]
    assert set(kept.table["image_id"]) == set(dev)


@pytest.mark.parametrize(
    "root, films, patients", (("cxr8-256", 1000, 682), ("cxr8-1024", 223, 223), ("cxr8-64", 1000, None))
)
def test_real_roots_load_with_their_counts(real_films, root, films, patients):
    """What the folder's README states, under its own name; a subset of NIH is loaded with a warning that says so."""
    with pytest.warns(UserWarning, match=f"cxr8: {films:,} films, published are 112,120"):
        cohort = load("cxr8", real_films / root)
    assert (len(cohort), cohort.simulated) == (films, False)
    assert patients is None or cohort.table["patient_id"].nunique() == patients
    assert set(cohort.table["view"]) == {"PA", "AP"} and set(cohort.table["official"]) == {"train_val", "test"}


def test_real_labels_and_views_are_confounded_as_stated(real_films):
    def cells(root):
        t = load("cxr8", real_films / root).table
        exact = t[t["No Finding"].eq(1) | t["Pneumonia"].eq(1)]
        return exact.groupby([exact["Pneumonia"].eq(1), "view"]).size().to_dict()

    assert cells("cxr8-256") == {(False, "AP"): 342, (False, "PA"): 158, (True, "AP"): 225, (True, "PA"): 275}
    assert min(cells("cxr8-1024").values()) >= 54


@pytest.mark.parametrize("root", ["cxr8-256", "cxr8-1024"])
def test_real_films_look_plausible_and_their_inversions_do_not(real_films, root):
    """Of all films of a folder at most 1 in 100 is refused, and at most 1 in 100 passes when it is inverted."""
    films = [read_film(path, 128) for path in sorted((real_films / root).rglob("*.png"))]
    assert len(films) > 200
    assert sum(film_fault(film) is not None for film in films) <= len(films) / 100
    assert sum(film_fault(-film) is None for film in films) <= len(films) / 100


def test_real_films_are_read_in_every_mode(real_films):
    """RGBA and RGB among grey ones: all read as one channel in range, of the size that was asked for."""
    cohort = load("cxr8", real_films / "cxr8-64")
    films = [cohort.read(i, 64) for i in range(0, len(cohort), 50)]
    assert all(f.shape == (64, 64) and abs(f).max() <= 1 and f.std() > 0.05 for f in films)


def test_regions_of_real_films_are_a_substitute_with_their_patients(real_films):
    """Six places a film, labelled by its findings; patients of a region are those of its film, and splits keep them whole."""
    from cxr_companion.data.regions import cut_regions, split_regions
    from cxr_companion.report.sources import open_regions

    classes = {
        "no finding": ["No Finding"],
        "infiltration": ["Infiltration"],
        "nodule or fibrosis": ["Nodule/Mass", "Fibrosis"],
    }
    cohort, boxes = open_regions("cxr8", real_films / "cxr8-256", classes)
    assert not cohort.simulated and len(boxes) == 6 * len(cohort)
    some = cohort.where(range(60))
    regions = cut_regions(some, boxes[boxes["image_id"].isin(some.table["image_id"])], 64)
    assert regions.images.shape == (360, 64, 64) and regions.images.min() >= -1 and regions.images.max() <= 1
    assert set(regions.table["patient_id"]) == set(some.table["patient_id"])
    assert regions.table["mm_per_px"].between(0.8, 2.5).all()  # 64 px are a quarter of a chest film
    parts = split_regions(regions.table, {"train": 0.7, "test": 0.3})["part"]
    assert parts.groupby(regions.table["patient_id"]).nunique().max() == 1
