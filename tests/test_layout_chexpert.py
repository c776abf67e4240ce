"""CheXpert: what the simulator writes is what Stanford distributes and what `load` gives back."""

import csv
import io
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_companion.data import load
from cxr_companion.data.chexpert import load_chexpert
from cxr_companion.phantom.chexpert_layout import LAYOUT
from cxr_companion.phantom.cohort import rows
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.film import render
from cxr_companion.phantom.hospitals import SHARED, hospital_spec
from tests.mutations import FUZZ, mutated

SPEC = hospital_spec("chexpert", 48, 64, seed=1)
HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
WORDS = {"nodule": "Lung Lesion", "effusion": "Pleural Effusion"}  # the rest have the shared name
NOT_ANNOTATED = ("Fibrosis", "Pneumoconiosis", "Emphysema", "Hernia", "Infiltration", "Pleural_Thickening")
FULL, SMALL = "CheXpert-v1.0/", "CheXpert-v1.0-small/"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A simulated CheXpert-v1.0-small, complete."""
    return write_layout(LAYOUT, SPEC, tmp_path_factory.mktemp("chexpert") / "CheXpert-v1.0-small", processes=1)


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "CheXpert-v1.0-small")


def table_of(root, part):
    return list(csv.DictReader(io.StringIO((root / f"{part}.csv").read_text())))


def cells_of(root):
    """Film -> its row of train.csv or valid.csv."""
    return {row["Path"].removeprefix(SMALL): row for part in ("train", "valid") for row in table_of(root, part)}


def truth_of(cohort):
    """Films in the order of the cohort with their rows of the truth table: the tables hold the parts one after the other."""
    parts = [[row for row in rows(SPEC) if (row["split"] == "val") == last] for last in (False, True)]
    return list(zip(cohort.table.to_dict("records"), parts[0] + parts[1], strict=True))


def rewrite(root, part, old, new, count=-1):
    text = (root / f"{part}.csv").read_text()
    assert old in text
    (root / f"{part}.csv").write_text(text.replace(old, new, count))


# ---- round trip


def test_every_label_comes_back(pristine):
    """A label is the truth; unknown is exactly what the file calls unsure, and a radiologist is never unsure."""
    cohort, cells, seen = load("chexpert", pristine), cells_of(pristine), set()
    assert len(cohort) == 48
    for film, truth in truth_of(cohort):
        for finding, name in SHARED.items():
            if name in NOT_ANNOTATED:
                continue
            cell = cells[film["image_id"]][WORDS.get(finding, name)]
            assert math.isnan(film[name]) == (cell == "-1.0"), (film["image_id"], name)
            assert math.isnan(film[name]) or film[name] == float(truth[f"sev_{finding}"] > 0), (film["image_id"], name)
            assert film["official"] == "train" or cell in ("0.0", "1.0")
            seen.add(cell)
        sick = any(truth[f"sev_{finding}"] > 0 for finding in SHARED)
        assert film["official"] == "train" or film["No Finding"] == float(not sick)
    assert seen == {"1.0", "0.0", "-1.0", ""}
    assert cohort.table[list(NOT_ANNOTATED)].isna().all(axis=None)


@pytest.mark.parametrize(("uncertain", "value"), (("ignore", math.nan), ("zeros", 0.0), ("ones", 1.0)))
def test_policies_are_u_ignore_u_zeros_u_ones(pristine, uncertain, value):
    table, cells = load("chexpert", pristine, uncertain=uncertain).table, cells_of(pristine)
    meaning = {"1.0": 1.0, "0.0": 0.0, "-1.0": value, "": 0.0}
    unsure = 0
    for name, word in (("Effusion", "Pleural Effusion"), ("Nodule/Mass", "Lung Lesion"), ("Atelectasis",) * 2):
        words = [cells[film][word] for film in table["image_id"]]
        np.testing.assert_array_equal(table[name], [meaning[w] for w in words])
        unsure += words.count("-1.0")
    assert unsure


def test_person_view_and_split_come_back(pristine):
    cohort = load("chexpert", pristine)
    table = cohort.table
    assert cohort.simulated and set(table["dataset"]) == {"chexpert"}
    for film, truth in truth_of(cohort):
        assert (film["view"], film["sex"], film["age"]) == (truth["view"], truth["sex"], min(truth["age"], 90))
        assert film["official"] == ("val" if truth["split"] == "val" else "train")
        assert film["labelled_by"] == ("radiologist" if truth["split"] == "val" else "chexpert")
        assert film["study_id"].endswith(f"/study{truth['follow_up'] + 1}") and film["boxes"] == ()
    assert set(table["view"]) == {"PA", "AP"} and set(table["official"]) == {"train", "val"}
    pairs = {(film["patient_id"], truth["patient_id"]) for film, truth in truth_of(cohort)}
    assert len(pairs) == table["patient_id"].nunique() == len({row["patient_id"] for row in rows(SPEC)})


def test_pixels_come_back(pristine):
    """Exactly, after JPEG's own loss: coding the rendered grey levels the same way gives the same pixels."""
    cohort = load("chexpert", pristine)
    for i, (_, truth) in list(enumerate(truth_of(cohort)))[::4]:
        expected = np.rint((render(SPEC, truth["film_index"]).image.astype(np.float64) + 1) * 127.5).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(expected).save(buffer, "JPEG", quality=90)
        got = np.rint((cohort.read(i) + 1) * 127.5)
        decoded = np.asarray(Image.open(buffer)).astype(float)
        assert abs(got - decoded).mean() < 0.05, "a level that rounds the other way in single precision moves a block"
        # quality 90 rounds coefficients to steps of 3 to 24, root mean square 13.4: an even error has 13.4 / 12 ** .5 = 3.9
        assert np.sqrt(np.mean((got - expected) ** 2)) < 4


def test_a_large_film_is_stored_with_320_pixels(tmp_path):
    spec = hospital_spec("chexpert", 1, 340)
    cohort = load("chexpert", write_layout(LAYOUT, spec, tmp_path / "small", processes=1))
    assert cohort.read(0).shape == (320, 320)


# ---- format facts, as Stanford's tables have them


def test_headers_names_and_values(pristine):
    assert {p.name for p in pristine.iterdir()} >= {"train.csv", "valid.csv", "train", "valid", "SIMULATED.txt"}
    for part in ("train", "valid"):
        assert (pristine / f"{part}.csv").read_text().splitlines()[0] == HEADER
        table = table_of(pristine, part)
        form = rf"CheXpert-v1\.0-small/{part}/patient\d{{5}}/study\d+/view\d+_frontal\.jpg"
        assert all(re.fullmatch(form, row["Path"]) for row in table)
        assert {row["Sex"] for row in table} <= {"Male", "Female"} and {row["Frontal/Lateral"] for row in table} == {
            "Frontal"
        }
        assert all(0 < int(row["Age"]) <= 90 for row in table)
        values = {row[word] for row in table for word in HEADER.split(",")[5:]}
        assert values == ({"1.0", "0.0", "-1.0", ""} if part == "train" else {"0.0", "1.0"})
    assert {row["No Finding"] for row in table_of(pristine, "train")} == {"1.0", ""}
    assert table_of(pristine, "valid")[0]["Path"].startswith("CheXpert-v1.0-small/valid/patient64541/study1/")
    assert sorted(cells_of(pristine)) == sorted(p.relative_to(pristine).as_posix() for p in pristine.rglob("*.jpg"))


def test_films_are_grey_jpegs(pristine):
    for path in pristine.rglob("*.jpg"):
        with Image.open(path) as film:
            assert (film.format, film.mode, film.size) == ("JPEG", "L", (64, 64))


def test_the_same_cohort_gives_the_same_bytes(pristine, tmp_path):
    again = write_layout(LAYOUT, SPEC, tmp_path / "again", processes=1)
    files = [p.relative_to(pristine) for p in pristine.rglob("*") if p.is_file()]
    assert all((pristine / f).read_bytes() == (again / f).read_bytes() for f in files)


# ---- what readers have


def test_both_prefixes_and_the_folder_above_give_the_same_films(root):
    small = load("chexpert", root).table
    assert load("chexpert", root.parent).table["image_id"].tolist() == small["image_id"].tolist()
    for part in ("train", "valid"):
        rewrite(root, part, SMALL, FULL)
    full = load("chexpert", root.rename(root.with_name("CheXpert-v1.0")).parent)
    assert full.table.drop(columns="path").equals(small.drop(columns="path")) and full.simulated
    assert full.read(0).shape == (64, 64)


def test_batches_are_found_whatever_the_path_says(root):
    home = root.rename(root.with_name("CheXpert-v1.0"))
    first, second = home / "CheXpert-v1.0 batch 1 (validate & csv)", home / "CheXpert-v1.0 batch 2 (train 1)"
    ids = load("chexpert", home).table["image_id"].tolist()
    first.mkdir()
    for name in ("train.csv", "valid.csv", "valid"):
        (home / name).rename(first / name)
    (home / "train").rename(second)
    for place in (home, home.parent):
        assert load("chexpert", place).table["image_id"].tolist() == ids
    for part, batch in (("train", second.name), ("valid", first.name)):
        rewrite(first, part, f"{SMALL}{part}/", f"{FULL}{batch}/")
    cohort = load("chexpert", home)
    assert cohort.table["image_id"].tolist() == ids and cohort.read(0).shape == (64, 64)


def test_lateral_films_unknown_sex_and_age_zero(root):
    lines = (root / "train.csv").read_text().splitlines()
    for row, new in ((1, "Lateral,"), (2, "Frontal,LL"), (3, "Frontal,RL"), (4, "Frontal,")):
        lines[row] = re.sub("Frontal,(AP|PA)", new, lines[row])
    lines[5] = re.sub(",(Male|Female),", ",Unknown,", lines[5])
    lines[6] = re.sub(",(Male|Female),[0-9]+,", r",\1,0,", lines[6])
    (root / "train.csv").write_text("\n".join([*lines, ""]))
    table = load("chexpert", root, views=None).table
    assert table["view"].tolist()[:4] == ["lateral", "", "", ""]
    assert table["sex"].iloc[4] == "" and math.isnan(table["age"].iloc[5])
    assert len(load("chexpert", root)) == len(table) - 4


# ---- bad input


@pytest.mark.parametrize(
    "path",
    (
        "CheXpert-v2.0/train/patient00001/study1/view1_frontal.jpg",
        "data/CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
        "train/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small/train/../../../etc/passwd",
        "CheXpert-v1.0-small/train/patient00001/../view1_frontal.jpg",
        "CheXpert-v1.0-small/valid/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small/train/patienté/study1/view1_frontal.jpg",
    ),
)
def test_a_path_that_is_none_is_refused_with_its_row(root, path):
    rewrite(root, "train", table_of(root, "train")[2]["Path"], path)
    with pytest.raises(
        ValueError, match=re.escape(f"train.csv: Path of row 3 is {path!r}; it looks like CheXpert-v1.0")
    ):
        load("chexpert", root)


@pytest.mark.parametrize("part", ("train", "valid"))
def test_a_missing_table_is_named(root, part):
    (root / f"{part}.csv").unlink()
    with pytest.raises(ValueError, match=f"holds none of {part}.csv.*is it the root of chexpert"):
        load("chexpert", root)


def test_a_label_of_2_is_refused_with_its_row(root):
    rewrite(root, "valid", ",0.0", ",2", 1)
    with pytest.raises(ValueError, match=r"valid\.csv: .* of row 1 is '2'; a label is 1.0, 0.0, -1.0 or blank"):
        load("chexpert", root)


def test_an_unknown_spelling_of_a_finding_is_refused(root):
    rewrite(root, "train", "Pleural Effusion", "Effusion", 1)
    with pytest.raises(ValueError, match="lacks columns Pleural Effusion; it has Path, Sex"):
        load("chexpert", root)


def test_a_missing_film_is_an_error_or_a_named_skip(root):
    gone = sorted(root.rglob("*.jpg"))[0]
    gone.unlink()
    with pytest.raises(ValueError, match="chexpert: 1 of 48 films of the table are missing, such as"):
        load("chexpert", root)
    skipped = load("chexpert", root, on_error="skip").skipped
    assert skipped["image_id"].tolist() == [gone.relative_to(root).as_posix()]
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "valid")
    with pytest.raises(ValueError, match="48 of 48 films"):
        load("chexpert", root, on_error="skip")


def test_a_broken_film_is_named_when_it_is_read(root):
    cohort = load("chexpert", root)
    Path(cohort.table["path"].iloc[2]).write_bytes(b"not a film")
    with pytest.raises(ValueError, match=re.escape(cohort.table["image_id"].iloc[2])):
        cohort.read(2)


def test_a_root_with_other_letters_works(pristine, tmp_path):
    assert len(load("chexpert", shutil.copytree(pristine, tmp_path / "Röntgen 胸部"))) == 48


# ---- fuzz


@pytest.fixture(scope="module")
def small(pristine, tmp_path_factory):
    """The two tables of a simulated CheXpert, cut to eight rows."""
    texts = {part: (pristine / f"{part}.csv").read_text().splitlines()[:9] for part in ("train", "valid")}
    return tmp_path_factory.mktemp("fuzz"), {part: "\n".join([*t, ""]).encode() for part, t in texts.items()}


@FUZZ
@given(st.data())
def test_damaged_tables_end_in_a_sentence(small, data):
    folder, tables = small
    part = data.draw(st.sampled_from(("train", "valid")))
    for name, content in tables.items():
        (folder / f"{name}.csv").write_bytes(data.draw(mutated(content)) if name == part else content)
    try:
        table = load_chexpert(folder, views=None, look=False).table
    except ValueError as error:
        assert len(str(error)) > 10
        return
    assert all(
        os.path.abspath(path).startswith(f"{folder}/{path[len(str(folder)) + 1 :][:5]}/patient")
        for path in table["path"]
    )
    assert table["image_id"].is_unique
    assert (table["age"].isna() | table["age"].between(1, 120)).all()
