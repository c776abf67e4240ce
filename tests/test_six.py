"""DATA=six: the notebooks on six layouts, simulated, and on a reader's own folders."""

import json
import shutil

import pandas as pd
import pytest

from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.hospitals import hospital_spec
from cxr_companion.phantom.layouts import LAYOUTS
from cxr_companion.report.runs import fresh_checkout
from tests.conftest import cxr
from tests.test_pipeline import SMOKE


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout to run in."""
    home = tmp_path_factory.mktemp("six")
    fresh_checkout(home)
    yield home
    shutil.rmtree(home / "build", ignore_errors=True)


def test_six_layouts_run(checkout):
    """Cohort and baseline on the six simulated layouts, each read by its own loader; what a set lacks is unknown."""
    home = checkout
    done = cxr(home, *SMOKE, "--data", "six", "--topic", "cohort", "--topic", "classifier_baseline")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = home / "build/runs/six-smoke"
    rows = pd.read_csv(folder / "results/myong2023/cohort.csv", keep_default_na=False)
    assert set(rows["data"]) == {"simulated six"}
    assert set(rows["site"]) - {""} == {"mimic", "chexpert", "cxr8", "jsrt", "vbd", "openi"}
    scores = pd.read_csv(folder / "results/myong2023/classifier_baseline.csv", keep_default_na=False)
    assert len(scores) and (scores["data"] == "simulated six").all()
    caption = json.loads((folder / "figures/myong2023/cohort_annotated.json").read_text())
    assert "SIMULATED" in caption["caption"] and "in jsrt" in caption["main_number"]


def test_own_sets_run_from_a_file(checkout, tmp_path):
    """A reader's own folders, named in a file: two of them, one said wrong first."""
    home = checkout
    specs = {"cxr8": hospital_spec("cxr8", 40, 32), "openi": hospital_spec("openi", 300, 32)}
    for name, spec in specs.items():
        write_layout(LAYOUTS[name], spec, tmp_path / name, processes=1)
    file = tmp_path / "roots.yaml"
    file.write_text("cxr8: cxr8\nopeni: elsewhere\n")
    call = [*SMOKE, "--data", "six", "--root", str(file), "--topic", "cohort"]
    wrong = cxr(home, *call)
    assert wrong.returncode == 2 and "the root of openi is not a folder" in " ".join(wrong.stderr.split())
    file.write_text("cxr8: cxr8\nopeni: {root: openi, views: headers}\n")
    done = cxr(home, *call)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = home / "build/runs/six-own-smoke" / "results/myong2023/cohort.csv"
    rows = pd.read_csv(made, keep_default_na=False)
    assert set(rows["site"]) - {""} == {"cxr8", "openi"} and "AP" in set(rows["view"])
