"""What readers really have: broken roots and wrong words. Each ends in one sentence or a named skip, and nothing is lost."""

import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_companion.core.files import sha256_file
from cxr_companion.data import load
from cxr_companion.data.decoding import decode
from cxr_companion.data.splits import check_split
from cxr_companion.phantom.cohort import CohortSpec
from cxr_companion.phantom.cxr8_layout import LAYOUT
from cxr_companion.phantom.export import write_layout
from cxr_companion.report.cli import app

TABLE = "Data_Entry_2017_v2020.csv"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A small root in NIH's layout, written by the simulator; without its truth table it passes for a real one."""
    folder = tmp_path_factory.mktemp("pristine") / "nih"
    write_layout(LAYOUT, CohortSpec(seed=3, n_films=80, size=32), folder, processes=1)
    (folder / "SIMULATED.txt").unlink()
    return folder


@pytest.fixture
def nih(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "nih")
    return tmp_path / "nih"


def films(root):
    return sorted((root / "images_001/images").glob("*.png"))


def break_one(path, how):
    grey = Image.open(path).convert("L")
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif how == "text":
        path.write_text("not an image")
    elif how == "pixel":
        grey.resize((1, 1)).save(path)
    elif how == "twelve":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 16).save(path)
    elif how == "sixteen":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path)
    else:
        grey.convert(how).save(path)


SKIPPED = {
    "missing": "is missing",
    "empty": "is empty",
    "truncated": "damaged or truncated",
    "text": "not an image",
    "pixel": "too small",
    "twelve": "max_value=4095",
}


@pytest.mark.parametrize("how", SKIPPED)
def test_a_bad_film_is_a_named_skip(nih, tmp_path, how):
    path = films(nih)[5]
    break_one(path, how)
    with pytest.raises(ValueError, match=r"cxr8.* row 6.*on_error='skip' leaves|cxr8.*\(row 6\); on_error='skip'"):
        decode(load("cxr8", nih), 32, folder=tmp_path / "cache")
    cohort, levels = decode(load("cxr8", nih, on_error="skip"), 32, folder=tmp_path / "cache", on_error="skip")
    assert len(cohort) == len(levels) == 79
    assert cohort.skipped["image_id"].tolist() == [path.name]
    assert SKIPPED[how] in cohort.skipped["reason"].iloc[0]


@pytest.mark.parametrize("how", ("sixteen", "RGBA", "RGB"))
def test_other_encodings_read_the_same(nih, tmp_path, how):
    before = load("cxr8", nih).read(5)
    break_one(films(nih)[5], how)
    assert np.abs(load("cxr8", nih).read(5) - before).max() < 0.01
    assert len(decode(load("cxr8", nih), 32, folder=tmp_path / "cache")[1]) == 80


@pytest.mark.parametrize(
    "change, words",
    (
        (lambda root: shutil.rmtree(root), "is not a folder"),
        (lambda root: (root / TABLE).unlink(), "holds none of"),
        (lambda root: (root / TABLE).write_text("name,label\n1.png,Edema\n"), "lacks columns Image Index"),
        (lambda root: shutil.rmtree(root / "images_001"), "80 of 80 films of the table are missing"),
        (
            lambda root: (root / TABLE).write_text(
                (root / TABLE).read_text() + (root / TABLE).read_text().splitlines()[1] + "\n"
            ),
            "more than once",
        ),
        (
            lambda root: (root / TABLE).write_text((root / TABLE).read_text().replace("No Finding", "Nothing", 1)),
            "no finding 'Nothing'",
        ),
        (lambda root: (root / "test_list.txt").write_text((root / "train_val_list.txt").read_text()), ""),
    ),
    ids=("no root", "no table", "other columns", "no films", "duplicate ids", "strange label", "one list twice"),
)
def test_a_bad_root_is_one_sentence(nih, change, words):
    change(nih)
    if not words:
        from cxr_companion.data.cxr8 import read_lists

        with pytest.raises(ValueError, match="both split lists"):
            read_lists(nih)
        return
    with pytest.raises(ValueError) as error:
        load("cxr8", nih)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_patient_on_both_sides_is_refused(nih):
    cohort = load("cxr8", nih)
    patients = cohort.table["patient_id"]
    twice = patients[patients.duplicated()].iloc[0]
    parts = np.where(np.arange(len(cohort)) == np.flatnonzero(patients == twice)[0], "test", "train")
    with pytest.raises(ValueError, match=f"more than one side of the split, such as {twice}"):
        check_split(cohort, parts)


@pytest.mark.parametrize(
    "words, message",
    (
        (["--paper", "myong2032"], "there are: all, dong2022, kim2022, myong2023, segal2021"),
        (["--preset", "quick"], "there are: smoke, demo, evening, paper"),
        (["--data", "mars"], "there are: phantom, mimic, chexpert, cxr8, jsrt, vbd, openi"),
        (["--data", "cxr8"], "needs ROOT"),
        (["--data", "cxr8", "--root", "/no/such"], "not a folder"),
        (["--preset", "smoke", "--set", "sed=1"], "parameter 'sed'"),
        (["--paper", "myong2023", "--topic", "figure_3"], "no experiment 'figure_3' of PAPER=myong2023"),
        (["--preset", "smoke", "--set", "seed=one"], "seed must be int, got 'one'"),
        (["--preset", "smoke", "--set", "seed"], "name=value"),
        (["--preset", "smoke", "--set", "preset=demo"], "SET can't change 'preset': say PRESET="),
        (["--preset", "smoke", "--set", "root=/tmp"], "SET can't change 'root': say ROOT="),
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_answered_with_the_right_ones(home, words, message):
    result = CliRunner().invoke(app, ["figures", *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()), result.output
    assert not (home / "build/runs").exists(), "nothing may start before everything is checked"


def test_a_broken_root_loses_nothing(home, nih):
    """A run on a root that can't be loaded fails by name and leaves figures and results as they were."""
    (nih / TABLE).write_text("name,label\n1.png,Edema\n")
    before = {p: sha256_file(p) for kind in ("figures", "results") for p in (home / kind).rglob("*.*")}
    words = ["figures", "--paper", "myong2023", "--preset", "smoke", "--data", "cxr8", "--root", str(nih)]
    words += ["--topic", "cohort"]
    result = CliRunner().invoke(app, words)
    text = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "failed: myong2023/cohort: 10_cohort.ipynb" in text and "lacks columns Image Index" in text
    assert {p: sha256_file(p) for p in before} == before
