"""VinDr-CXR: what the simulator writes is what the loader gives, vote for vote; broken tables end in one sentence."""

import csv
import os
import re
import shutil

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_companion.data import load
from cxr_companion.data.vbd import load_vbd, read_boxes, read_readings
from cxr_companion.data.vocabulary import FINDINGS
from cxr_companion.phantom.cohort import rows
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.film import render
from cxr_companion.phantom.hospitals import hospital_spec
from cxr_companion.phantom.vbd_layout import LAYOUT, film_ids, reader_boxes, readings

SPEC = hospital_spec("vbd", 24, size=64, seed=2)
CASES = int(os.environ.get("CXR_FUZZ", "100"))
ANNOTATED = {
    "No Finding", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
}  # fmt: skip
SHARED = {
    "nodule": "Nodule/Mass", "consolidation": "Consolidation", "effusion": "Effusion", "cardiomegaly": "Cardiomegaly", "edema": "Edema",
    "pneumothorax": "Pneumothorax", "atelectasis": "Atelectasis", "fibrosis": "Fibrosis",
}  # fmt: skip
LABELS = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,Enlarged PA,ILD,"
    "Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,Pleural thickening,Pneumothorax,"
    "Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis,Other diseases,No finding"
)
BOXES = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_layout(LAYOUT, SPEC, tmp_path_factory.mktemp("vbd") / "root", processes=1)


@pytest.fixture(scope="module")
def truth():
    """Film id -> its row of the truth table."""
    return dict(zip(film_ids(SPEC), rows(SPEC), strict=True))


@pytest.fixture
def copy(root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    return tmp_path / "root"


def table_of(cohort):
    return cohort.table.set_index("image_id", drop=False)


# Round trip


@pytest.mark.parametrize("vote", ["majority", "any"])
def test_labels_are_the_readers_vote(root, truth, vote):
    """Votes counted here, from the readers' own words, not from the tables."""
    cohort = load("vbd", root, vote=vote)
    assert cohort.simulated and set(cohort.table["image_id"]) == set(truth)
    table = table_of(cohort)
    assert set(cohort.annotated()) == ANNOTATED
    assert table[[f for f in FINDINGS if f not in ANNOTATED]].isna().all(axis=None)
    disputed = 0
    for name, row in truth.items():
        said = [set(found) for found in readings(SPEC, row).values()]
        needed = 1 if vote == "any" or len(said) == 1 else 2
        normal = sum(not found for found in said) >= (len(said) if vote == "any" else needed)
        for finding, shared in SHARED.items():
            votes = sum(finding in found for found in said)
            assert table.loc[name, shared] == float(votes >= needed), (name, finding)
            disputed += 0 < votes < len(said)
        assert table.loc[name, "No Finding"] == float(normal)
        assert (table.loc[name, sorted(ANNOTATED - set(SHARED.values()) - {"No Finding"})] == 0).all()
    assert disputed >= 5  # else nothing was voted on


def test_readers_see_what_is_severe(root, truth):
    table = table_of(load_vbd(root))
    severe = [(name, f) for name, row in truth.items() for f in SHARED if row[f"sev_{f}"] >= 0.75]
    assert len(severe) >= 3 and all(table.loc[name, SHARED[f]] == 1 for name, f in severe)
    absent = [table.loc[name, SHARED[f]] for name, row in truth.items() for f in SHARED if row[f"sev_{f}"] == 0]
    assert np.mean(absent) < 0.01


def test_readings_are_kept(root, truth):
    table = read_readings(root)
    for name, row in truth.items():
        mine = table[table["image_id"] == name].set_index("reader")
        expected = {reader or "consensus": set(found) for reader, found in readings(SPEC, row).items()}
        assert set(mine.index) == set(expected)
        for reader, found in expected.items():
            assert mine.loc[reader, "No finding"] == float(not found)
            assert mine.loc[reader, "Pulmonary fibrosis"] == float("fibrosis" in found)


def test_boxes(root, truth):
    """Corners have four decimals in the table."""
    cohort, drawn = load_vbd(root), read_boxes(root)
    assert len(drawn) == sum(len(reader_boxes(SPEC, render(SPEC, row["film_index"]))) for row in truth.values())
    seen = 0
    for name, boxes in zip(cohort.table["image_id"], cohort.table["boxes"], strict=True):
        row = truth[name]
        said = [{w for w in found} for found in readings(SPEC, row).values()]
        won = [f for f in SHARED if sum(f in found for found in said) * 2 > len(said)]
        words = {"effusion": "Pleural effusion", "fibrosis": "Pulmonary fibrosis"}
        native = {words.get(f, SHARED[f]) for f in won}
        expected = [
            (word, x0, y0, x1 - x0, y1 - y0)
            for _, word, (x0, y0, x1, y1) in reader_boxes(SPEC, render(SPEC, row["film_index"]))
            if word in native
        ]
        assert [box[0] for box in boxes] == [box[0] for box in expected]
        np.testing.assert_allclose([b[1:] for b in boxes], [b[1:] for b in expected], atol=1e-4)
        seen += len(boxes)
    assert seen > 20


def test_people_views_and_split(root, truth):
    table = table_of(load_vbd(root))
    assert (table["view"] == "PA").all() and (table["patient_id"] == table["image_id"]).all()
    assert table["age"].isna().all() and (table["sex"] == "").all()  # they stand in the headers alone
    parts = {name: "test" if row["split"] == "test" else "train" for name, row in truth.items()}
    assert table["official"].to_dict() == parts and set(parts.values()) == {"train", "test"}
    opened = table_of(load_vbd(root, headers=True))
    assert opened["sex"].to_dict() == {name: row["sex"] for name, row in truth.items()}
    assert opened["age"].to_dict() == {name: row["age"] for name, row in truth.items()}
    assert (opened[["width", "height"]] == 64).all(axis=None)
    known = opened["spacing_mm"].dropna()
    assert 0 < len(known) <= len(opened)
    for name, spacing in known.items():
        assert abs(spacing - render(SPEC, truth[name]["film_index"]).pixel_mm) < 1e-4


def decoded(path):
    """Read a film by the standard's own formulas (PS3.3 C.11.2.1.2), apart from the package's reader."""
    data = pydicom.dcmread(path)
    levels, low, wide = data.pixel_array.astype(float), float(data.WindowCenter), float(data.WindowWidth)
    shown = np.clip((levels - (low - 0.5)) / (wide - 1) + 0.5, 0, 1)
    return 2 * (1 - shown if data.PhotometricInterpretation == "MONOCHROME1" else shown) - 1, wide


def test_pixels(root, truth):
    """Half a stored level of the window is the format's own loss; 10 bits lose most."""
    for _, record in load_vbd(root).table.iterrows():
        image, wide = decoded(record["path"])
        wanted = render(SPEC, truth[record["image_id"]]["film_index"]).image
        assert np.abs(image - wanted).max() <= 1 / (wide - 1) + 1e-6
        assert wide >= 0.8 * 2**10


def test_read_film_gives_the_film_back(root, truth):
    films = pytest.importorskip("cxr_companion.data.films")
    for _, record in load_vbd(root).table.iloc[:8].iterrows():
        image, (wanted, wide) = films.read_film(record["path"]), decoded(record["path"])
        assert image.dtype == np.float32
        assert (
            np.abs(image - render(SPEC, truth[record["image_id"]]["film_index"]).image).max() <= 2 / (wide - 1) + 1e-5
        )
        assert np.abs(image - wanted).max() <= 1 / (wide - 1) + 1e-5


# The format's facts, as literals


def test_headers_are_the_real_ones(root):
    heads = {p.name: p.read_bytes().split(b"\n")[0].decode() for p in (root / "annotations").iterdir()}
    assert heads == {
        "annotations_train.csv": BOXES,
        "annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max",
        "image_labels_train.csv": f"image_id,rad_id,{LABELS}",
        "image_labels_test.csv": f"image_id,{LABELS.replace('Other diseases', 'Other disease')}",
    }


def test_names_readers_and_rows(root):
    films = [p for part in ("train", "test") for p in (root / part).iterdir()]
    assert len(films) == 24 and all(re.fullmatch(r"[0-9a-f]{32}\.dicom", p.name) for p in films)
    with open(root / "annotations/image_labels_train.csv", newline="") as file:
        read = list(csv.DictReader(file))
    readers = {name: [r["rad_id"] for r in read if r["image_id"] == name] for name in {r["image_id"] for r in read}}
    assert all(len(set(three)) == 3 for three in readers.values())
    assert {r for three in readers.values() for r in three} <= {f"R{k}" for k in range(1, 18)}
    assert {value for r in read for key, value in r.items() if key not in ("image_id", "rad_id")} == {"0", "1"}


def test_dicom_headers(root):
    headers = [
        pydicom.dcmread(p, stop_before_pixels=True) for part in ("train", "test") for p in (root / part).iterdir()
    ]
    assert {h.PhotometricInterpretation for h in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert {h.BitsStored for h in headers} <= set(range(10, 17)) and len({h.BitsStored for h in headers}) > 2
    assert all(h.WindowWidth > 1 and "SIMULATED" in h.ImageComments and "ViewPosition" not in h for h in headers)


# Kaggle's variant of the same films

KAGGLE = {
    "Aortic enlargement": 0, "Atelectasis": 1, "Calcification": 2, "Cardiomegaly": 3, "Consolidation": 4, "ILD": 5, "Infiltration": 6,
    "Lung Opacity": 7, "Nodule/Mass": 8, "Other lesion": 9, "Pleural effusion": 10, "Pleural thickening": 11, "Pneumothorax": 12,
    "Pulmonary fibrosis": 13, "No finding": 14,
}  # fmt: skip


@pytest.fixture
def kaggle(root, tmp_path):
    """The training films as Kaggle had them: one table, 15 findings, a reader left with none says No finding."""
    shutil.copytree(root / "train", tmp_path / "train")
    with open(root / "annotations/annotations_train.csv", newline="") as file:
        read = list(csv.DictReader(file))
    kept = [r for r in read if r["class_name"] in KAGGLE]
    said = {(r["image_id"], r["rad_id"]) for r in kept}
    none = dict.fromkeys((r["image_id"], r["rad_id"]) for r in read if (r["image_id"], r["rad_id"]) not in said)
    with open(tmp_path / "train.csv", "w") as file:
        file.write("image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n")
        for r in kept:
            corners = ",".join(r[edge] for edge in ("x_min", "y_min", "x_max", "y_max"))
            file.write(f"{r['image_id']},{r['class_name']},{KAGGLE[r['class_name']]},{r['rad_id']},{corners}\n")
        file.writelines(f"{name},No finding,14,{reader},,,,\n" for name, reader in none)
    return tmp_path


def test_kaggle_has_the_same_labels_and_fewer_findings(root, kaggle, truth):
    ours = table_of(load("vbd", kaggle))
    theirs = table_of(load_vbd(root)).loc[ours.index]
    assert set(ours.index) == {name for name, row in truth.items() if row["split"] != "test"}
    for finding in (
        "Nodule/Mass",
        "Effusion",
        "Cardiomegaly",
        "Consolidation",
        "Pneumothorax",
        "Atelectasis",
        "Fibrosis",
    ):
        assert ours[finding].equals(theirs[finding]), finding
    assert ours[["Edema", "Emphysema", "Fracture", "Pneumonia", "Hernia"]].isna().all(axis=None)
    assert (ours["official"] == "").all()
    for name in ours.index:
        assert set(ours.loc[name, "boxes"]) == {box for box in theirs.loc[name, "boxes"] if box[0] != "Edema"}


# Bad input


def test_wrong_root_names_what_was_looked_for(tmp_path):
    with pytest.raises(
        ValueError, match="holds none of annotations/image_labels_train.csv, .*train.csv: is it the root of vbd"
    ):
        load_vbd(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        load_vbd(tmp_path / "none")


def test_one_part_alone_is_a_root(copy, truth):
    (copy / "annotations/image_labels_train.csv").unlink()
    (copy / "annotations/annotations_train.csv").unlink()
    assert set(load_vbd(copy).table["official"]) == {"test"}


def test_a_missing_film(copy):
    film = next((copy / "train").iterdir())
    film.unlink()
    with pytest.raises(ValueError, match=f"vbd: 1 of 24 films of the table are missing, such as {film.stem} below"):
        load_vbd(copy)
    assert load_vbd(copy, on_error="skip").skipped["image_id"].tolist() == [film.stem]


def test_a_film_of_one_part_is_not_taken_for_the_other(copy):
    film = next((copy / "test").iterdir())
    film.rename(copy / "train" / film.name)
    with pytest.raises(ValueError, match=f"such as {film.stem} below"):
        load_vbd(copy)


def test_a_header_that_cannot_be_read(copy):
    film = next((copy / "train").iterdir())
    film.write_bytes(film.read_bytes()[:90])
    assert len(load_vbd(copy)) == 24  # listing doesn't open films
    with pytest.raises(ValueError, match=f"{film.name} has no readable DICOM header"):
        load_vbd(copy, headers=True)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("image_labels_train.csv", lambda t: t.replace(",1\n", ",2\n", 1), r"No finding of .* is 2, not 0 or 1"),
        ("image_labels_train.csv", lambda t: t.replace(",Edema,", ",Oedema,"), "lacks columns Edema"),
        ("image_labels_train.csv", lambda t: t + t.splitlines()[1] + "\n", "more than once"),
        ("annotations_train.csv", lambda t: t.replace("Nodule/Mass", "Nodul"), "names 'Nodul'"),
        (
            "annotations_train.csv",
            lambda t: t + "x,R1,Edema,5,5,4,9\n",
            "box of Edema on x has x_min 5.0 and x_max 4.0",
        ),
        ("annotations_train.csv", lambda t: t + "x,R1,Edema,5,5,6,\n", "has y_min 5.0 and y_max nan"),
    ],
)
def test_a_wrong_row_is_named(copy, name, change, words):
    file = copy / "annotations" / name
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    with pytest.raises(ValueError, match=words):
        load_vbd(copy)


def test_an_unknown_vote(root):
    with pytest.raises(ValueError, match="vote must be 'majority' or 'any', got 'mean'"):
        load("vbd", root, vote="mean")


def test_a_folder_with_letters_beyond_ascii(root, tmp_path):
    shutil.copytree(root, tmp_path / "ngực é")
    assert len(load_vbd(tmp_path / "ngực é")) == 24


# Fuzz


@st.composite
def broken(draw, valid: bytes):
    """Flip, insert, delete or cut bytes, write in another encoding, drop, rename or repeat a column."""
    data = valid
    for _ in range(draw(st.integers(1, 4))):
        at, n = draw(st.integers(0, len(data))), draw(st.integers(1, 12))
        how = draw(st.sampled_from(("flip", "insert", "delete", "cut", "repeat", "encode", "drop", "rename", "twice")))
        if how == "flip":
            data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        elif how == "insert":
            data = (
                data[:at]
                + draw(st.binary(max_size=n) | st.sampled_from((b",", b"\n", b'"', b"2", b"nan", b"-1", b"inf")))
                + data[at:]
            )
        elif how == "delete":
            data = data[:at] + data[at + n :]
        elif how == "cut":
            data = data[:at]
        elif how == "repeat":
            data = data[:at] + data[at : at + 80] + data[at:]
        elif how == "encode":
            data = data.decode("latin-1").encode(
                draw(st.sampled_from(("utf-16", "utf-8-sig", "cp1258"))), errors="ignore"
            )
        else:
            data = _column(data, how, draw(st.integers(0, 40)))
    return data


def _column(data: bytes, how: str, at: int) -> bytes:
    table = [line.split(",") for line in data.decode("latin-1").split("\n")]
    for k, row in enumerate(table):
        if at < len(row):
            value = row[at]
            row[at : at + 1] = {"drop": [], "rename": ["?" if k == 0 else value], "twice": [value, value]}[how]
    return "\n".join(",".join(row) for row in table).encode("latin-1")


def flags(*said):
    return ",".join(str(int(name in said)) for name in LABELS.split(","))


TRAIN = "\n".join(
    [f"image_id,rad_id,{LABELS}"]
    + [f"{name},R{k},{flags(said)}" for name in "ab" for k, said in enumerate(("Edema", "Nodule/Mass", "No finding"))]
).encode()
MARKS = f"{BOXES}\na,R1,Nodule/Mass,1,2,3.5,4\nb,R0,Edema,10,20,30,40\nb,R2,No finding,,,,\n".encode()
TABLE = b"image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,Nodule/Mass,8,R1,1,2,3,4\na,No finding,14,R2,,,,\nb,ILD,5,R3,1,2,9,9\n"


def outcome(folder):
    try:
        table = load_vbd(folder, on_error="skip").table
    except ValueError as error:
        assert str(error)
        return
    others = table[sorted(ANNOTATED - {"No Finding"})]
    assert not (table["No Finding"].eq(1) & others.eq(1).any(axis=1)).any()
    assert all(w > 0 and h > 0 for boxes in table["boxes"] for _, _, _, w, h in boxes)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    roots = {name: tmp_path_factory.mktemp(name) for name in ("physionet", "kaggle")}
    for folder in roots.values():
        (folder / "train").mkdir()
        (folder / "annotations").mkdir()
        for name in "ab":
            (folder / f"train/{name}.dicom").touch()
    return roots


FUZZ = settings(
    max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@FUZZ
@given(train=broken(TRAIN) | st.just(TRAIN), marks=broken(MARKS))
def test_broken_physionet_tables_raise_nothing_but_value_errors(fuzzed, train, marks):
    folder = fuzzed["physionet"] / "annotations"
    (folder / "image_labels_train.csv").write_bytes(train)
    (folder / "annotations_train.csv").write_bytes(marks)
    outcome(fuzzed["physionet"])


@FUZZ
@given(table=broken(TABLE))
def test_broken_kaggle_tables_raise_nothing_but_value_errors(fuzzed, table):
    (fuzzed["kaggle"] / "train.csv").write_bytes(table)
    outcome(fuzzed["kaggle"])


def test_the_valid_tables_are_valid(fuzzed):
    folder = fuzzed["physionet"] / "annotations"
    (folder / "image_labels_train.csv").write_bytes(TRAIN)
    (folder / "annotations_train.csv").write_bytes(MARKS)
    (fuzzed["kaggle"] / "train.csv").write_bytes(TABLE)
    assert (len(load_vbd(fuzzed["physionet"])), len(load_vbd(fuzzed["kaggle"]))) == (2, 2)
