"""MIMIC-CXR-JPG: what the simulator writes is what PhysioNet documents and what `load` gives back."""

import csv
import gzip
import io
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.listing import make_tables
from cxr_companion.data import load
from cxr_companion.data.mimic import load_mimic
from cxr_companion.phantom.cohort import rows
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.film import render
from cxr_companion.phantom.hospitals import SHARED, hospital_spec
from cxr_companion.phantom.mimic_layout import LAYOUT
from tests.mutations import FUZZ, mutated

SPEC = hospital_spec("mimic", 48, 64, seed=2)
NAME = "mimic-cxr-2.0.0-{}.csv.gz"
KINDS = ("metadata", "split", "chexpert")
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
WORDS = {"nodule": "Lung Lesion", "effusion": "Pleural Effusion"}  # the rest have the shared name
NOT_ANNOTATED = ("Fibrosis", "Pneumoconiosis", "Emphysema", "Hernia", "Infiltration", "Pleural_Thickening")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A simulated MIMIC, complete."""
    return write_layout(LAYOUT, SPEC, tmp_path_factory.mktemp("mimic") / "mimic-cxr-jpg", processes=1)


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "mimic")


def text_of(root, kind):
    return gzip.decompress((root / NAME.format(kind)).read_bytes()).decode()


def table_of(root, kind):
    return list(csv.DictReader(io.StringIO(text_of(root, kind))))


def rewrite(root, kind, old, new, count=-1):
    text = text_of(root, kind)
    assert old in text
    (root / NAME.format(kind)).write_bytes(gzip.compress(text.replace(old, new, count).encode()))


# ---- round trip


def test_every_label_comes_back(pristine):
    """A label is the truth; unknown is exactly what the file calls unsure, and a row of blanks."""
    table = load("mimic", pristine).table
    studies = {row["study_id"]: row for row in table_of(pristine, "chexpert")}
    seen = set()
    assert len(table) == 48
    for (_, film), truth in zip(table.iterrows(), rows(SPEC), strict=True):
        row = studies[film["study_id"]]
        blank = not any(row[word] for word in LABELS.split(",")[2:])
        for finding, name in SHARED.items():
            if name in NOT_ANNOTATED:
                continue
            cell = row[WORDS.get(finding, name)]
            unknown = blank or cell == "-1.0"
            assert math.isnan(film[name]) == unknown, (film["image_id"], name)
            assert unknown or film[name] == float(truth[f"sev_{finding}"] > 0), (film["image_id"], name)
            seen.add(cell)
        devices = film["Support Devices"]
        assert math.isnan(devices) or not truth["devices"] or devices == 1
    assert seen == {"1.0", "0.0", "-1.0", ""}
    assert table[list(NOT_ANNOTATED)].isna().all(axis=None)
    assert table["No Finding"].sum() > 0


@pytest.mark.parametrize(("uncertain", "value"), (("ignore", math.nan), ("zeros", 0.0), ("ones", 1.0)))
@pytest.mark.parametrize(("unmentioned", "blank"), (("zeros", 0.0), ("ignore", math.nan)))
def test_policies_change_what_is_unsure_and_nothing_else(pristine, uncertain, value, unmentioned, blank):
    table = load("mimic", pristine, uncertain=uncertain, unmentioned=unmentioned).table
    meaning = {"1.0": 1.0, "0.0": 0.0, "-1.0": value, "": blank}
    studies = {row["study_id"]: row for row in table_of(pristine, "chexpert")}
    for name, word in (("Effusion", "Pleural Effusion"), ("Atelectasis", "Atelectasis"), ("Lung Opacity",) * 2):
        rows_ = [studies[study] for study in table["study_id"]]
        expected = [meaning[r[word]] if any(list(r.values())[2:]) else math.nan for r in rows_]
        np.testing.assert_array_equal(table[name], expected)


def test_negbio_is_another_table(pristine):
    ours, theirs = (load("mimic", pristine, labels=name).table for name in ("chexpert", "negbio"))
    assert set(theirs["labelled_by"]) == {"negbio"}
    findings = ["Atelectasis", "Edema", "Consolidation", "Effusion", "Lung Opacity", "Nodule/Mass"]
    assert theirs[findings].notna().sum().sum() > ours[findings].notna().sum().sum()
    both = ours[findings].notna() & theirs[findings].notna()
    assert (ours[findings].eq(theirs[findings]) | ~both).all(axis=None)


def test_films_patients_views_and_split_come_back(pristine):
    cohort = load("mimic", pristine)
    table, truth = cohort.table, rows(SPEC)
    assert cohort.simulated and set(table["dataset"]) == {"mimic"}
    assert table["view"].tolist() == [row["view"] for row in truth] and set(table["view"]) == {"PA", "AP"}
    assert table["official"].tolist() == [row["split"] for row in truth]
    assert set(table["official"]) == {"train", "val", "test"}
    assert table["age"].isna().all() and set(table["sex"]) == {""}  # MIMIC-CXR-JPG has neither
    assert set(table["boxes"]) == {()}
    assert table["width"].eq(64).all() and table["height"].eq(64).all()
    pairs = set(zip(table["patient_id"], [row["patient_id"] for row in truth], strict=True))
    assert len(pairs) == table["patient_id"].nunique() == len({row["patient_id"] for row in truth})


def equalised(image):
    """Equalise by sorting, without a histogram: the share of other pixels that are not brighter, less the darkest."""
    levels = np.rint((image - image.min()) / (image.max() - image.min()) * 255)
    ordered, darkest = np.sort(levels.ravel()), (levels == levels.min()).sum()
    below = np.searchsorted(ordered, levels.ravel(), side="right").reshape(levels.shape)
    return np.rint((below - darkest) * 255.0 / (levels.size - darkest)).astype(np.uint8)


def test_pixels_come_back(pristine):
    """Exactly, after JPEG's own loss: coding the expected grey levels the same way gives the same pixels."""
    cohort = load("mimic", pristine)
    for i in range(0, 48, 4):
        expected, buffer = equalised(render(SPEC, i).image.astype(np.float64)), io.BytesIO()
        Image.fromarray(expected).save(buffer, "JPEG", quality=95)
        got = np.rint((cohort.read(i) + 1) * 127.5)
        decoded = np.asarray(Image.open(buffer)).astype(float)
        assert abs(got - decoded).mean() < 0.05, "a level that rounds the other way in single precision moves a block"
        # quality 95 rounds coefficients to steps of 2 to 12, root mean square 6.7: an even error has 6.7 / 12 ** .5 = 1.9
        assert np.sqrt(np.mean((got - expected) ** 2)) < 2.5


# ---- format facts, as PhysioNet's page states them


def test_headers_names_and_ids(pristine):
    files = {p.name for p in pristine.iterdir()}
    assert files >= {
        "mimic-cxr-2.0.0-metadata.csv.gz",
        "mimic-cxr-2.0.0-split.csv.gz",
        "mimic-cxr-2.0.0-chexpert.csv.gz",
        "mimic-cxr-2.0.0-negbio.csv.gz",
        "IMAGE_FILENAMES",
        "files",
        "SIMULATED.txt",
    }
    assert text_of(pristine, "metadata").splitlines()[0] == METADATA
    assert text_of(pristine, "split").splitlines()[0] == "dicom_id,study_id,subject_id,split"
    assert text_of(pristine, "chexpert").splitlines()[0] == LABELS == text_of(pristine, "negbio").splitlines()[0]
    assert {row["split"] for row in table_of(pristine, "split")} == {"train", "validate", "test"}
    form = r"files/(p1\d)/(p1\d{7})/(s5\d{7})/([0-9a-f]{8}(-[0-9a-f]{8}){4})\.jpg"
    films = [p.relative_to(pristine).as_posix() for p in pristine.rglob("*.jpg")]
    matches = [re.fullmatch(form, film) for film in films]
    assert len(films) == 48 and all(m and m[2].startswith(m[1]) and len(m[4]) == 44 for m in matches)
    assert sorted((pristine / "IMAGE_FILENAMES").read_text().split()) == sorted(films)
    dates = [row["StudyDate"] for row in table_of(pristine, "metadata")]
    assert all(re.fullmatch(r"2[12]\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", date) for date in dates)


def test_films_are_grey_jpegs_of_quality_95(pristine):
    for path in pristine.rglob("*.jpg"):
        with Image.open(path) as film:
            assert (film.format, film.mode, film.size) == ("JPEG", "L", (64, 64))
            steps = film.quantization[0]  # Annex K of ISO 10918 at quality 95: 16 -> 2 at the start, 121 -> 12 at most
            assert (steps[0], max(steps)) == (2, 12)
            shares = np.histogram(np.asarray(film), bins=4, range=(0, 256))[0] / 64**2
            assert (abs(shares - 0.25) < 0.12).all(), "equalised over the whole image"


def test_labels_hold_four_values_and_no_finding_is_never_zero(pristine):
    for kind in ("chexpert", "negbio"):
        table = table_of(pristine, kind)
        values = {row[word] for row in table for word in LABELS.split(",")[2:]}
        assert values <= {"1.0", "0.0", "-1.0", ""}
        assert {row["No Finding"] for row in table} <= {"1.0", ""}
        assert len({row["study_id"] for row in table}) == len(table) == 48


def test_the_same_cohort_gives_the_same_bytes(pristine, tmp_path):
    again = write_layout(LAYOUT, SPEC, tmp_path / "again", processes=1)
    files = [p.relative_to(pristine) for p in pristine.rglob("*") if p.is_file()]
    assert all((pristine / f).read_bytes() == (again / f).read_bytes() for f in files)
    for kind in (*KINDS, "negbio"):  # gzip's time of modification is bytes 4 to 8 of its header
        assert (again / NAME.format(kind)).read_bytes()[4:8] == b"\0\0\0\0"


# ---- what readers have


def test_rows_in_another_order_and_unpacked_tables_give_the_same_films(root):
    before = load("mimic", root).table
    for kind in KINDS[1:]:
        header, *lines = text_of(root, kind).splitlines()
        (root / NAME.format(kind)).unlink()
        (root / NAME.format(kind).removesuffix(".gz")).write_text("\n".join([header, *lines[::-1], ""]))
    assert load("mimic", root).table.equals(before)


def test_a_study_without_labels_is_unknown_not_normal(root):
    header, first, *others = text_of(root, "chexpert").splitlines()
    (root / NAME.format("chexpert")).write_bytes(gzip.compress("\n".join([header, *others, ""]).encode()))
    table = load("mimic", root).table
    gone = table["study_id"] == first.split(",")[1]
    assert gone.sum() == 1 and table.loc[gone, "Atelectasis":"Support Devices"].isna().all(axis=None)
    assert set(table.loc[gone, "labelled_by"]) == {""} and set(table.loc[~gone, "labelled_by"]) == {"chexpert"}
    assert table.loc[~gone, "Edema"].notna().mean() > 0.8


# ---- bad input


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_table_is_named(root, kind):
    (root / NAME.format(kind)).unlink()
    with pytest.raises(ValueError, match=f"holds none of mimic-cxr-2.0.0-{kind}.csv.gz.*is it the root of mimic"):
        load("mimic", root)


def test_a_wrong_root_says_what_it_looked_for(tmp_path):
    with pytest.raises(ValueError, match="holds none of mimic-cxr-2.0.0-metadata.csv.gz"):
        load("mimic", tmp_path)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        load("mimic", tmp_path / "nowhere")


def test_a_label_of_2_is_refused_with_its_row(root):
    lines = text_of(root, "chexpert").splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:5], "2", *cells[6:]])
    (root / NAME.format("chexpert")).write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(ValueError, match=r"chexpert\.csv\.gz: Edema of row 3 is '2'; a label is 1.0, 0.0, -1.0 or"):
        load("mimic", root)


def test_an_unknown_spelling_of_a_finding_is_refused(root):
    rewrite(root, "chexpert", "Pleural Effusion", "Pleural effusion")
    with pytest.raises(ValueError, match="lacks columns Pleural Effusion; it has subject_id"):
        load("mimic", root)


def test_an_id_that_leaves_the_root_is_refused(root):
    film = table_of(root, "metadata")[1]["dicom_id"]
    for kind in ("metadata", "split"):
        rewrite(root, kind, film, "../../../../etc/passwd")
    with pytest.raises(ValueError, match=r"dicom_id of row 2 is '../../../../etc/passwd'"):
        load("mimic", root)


def test_a_patient_on_two_sides_is_refused(root):
    table = table_of(root, "split")
    often, films = Counter(row["subject_id"] for row in table).most_common(1)[0]
    first = next(row for row in table if row["subject_id"] == often)
    assert films > 1
    other = {"train": "test", "validate": "test", "test": "train"}[first["split"]]
    line = f"{first['dicom_id']},{first['study_id']},{first['subject_id']},"
    rewrite(root, "split", line + first["split"], line + other)
    with pytest.raises(ValueError, match=f"1 patients stand in two parts, such as {first['subject_id']} in"):
        load("mimic", root)


def test_a_missing_film_is_an_error_or_a_named_skip(root):
    gone = sorted(root.rglob("*.jpg"))[0]
    gone.unlink()
    with pytest.raises(ValueError, match="mimic: 1 of 48 films of the table are missing, such as"):
        load("mimic", root)
    assert load("mimic", root, on_error="skip").skipped["image_id"].tolist() == [gone.stem]


@pytest.mark.parametrize("content", (b"", b"not a film", b"\xff\xd8\xff\xe0\x00\x10JFIF"))
def test_a_broken_film_is_named_when_it_is_read(root, content):
    cohort = load("mimic", root)
    Path(cohort.table["path"].iloc[2]).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(cohort.table["image_id"].iloc[2])):
        cohort.read(2)


def test_a_root_with_other_letters_works(pristine, tmp_path):
    cohort = load("mimic", shutil.copytree(pristine, tmp_path / "Röntgen 胸部"))
    assert len(cohort) == 48 and cohort.read(0).shape == (64, 64)


def test_options_are_checked_before_tables_are_read(tmp_path):
    with pytest.raises(ValueError, match="uncertain must be one of ignore, zeros, ones, got 'U-Ones'"):
        load("mimic", tmp_path, uncertain="U-Ones")
    with pytest.raises(ValueError, match="mimic has no option 'view'; it has labels"):
        load("mimic", tmp_path, view="PA")


def test_a_table_as_large_as_the_bench_makes_loads(tmp_path):
    make_tables(tmp_path, 3000, 1800, 500)
    table = load_mimic(tmp_path, views=None, look=False).table
    assert (len(table), table["study_id"].nunique(), table["patient_id"].nunique()) == (3000, 1800, 500)
    assert len(load_mimic(tmp_path, look=False)) == table["view"].isin(["PA", "AP"]).sum()


# ---- fuzz


@pytest.fixture(scope="module")
def small(pristine, tmp_path_factory):
    """The three tables of a simulated MIMIC, unpacked, cut to eight rows."""
    folder = tmp_path_factory.mktemp("fuzz")
    tables = {kind: "\n".join([*text_of(pristine, kind).splitlines()[:9], ""]).encode() for kind in KINDS}
    return folder, tables


def loads_or_says_why(root):
    try:
        table = load_mimic(root, views=None, look=False).table
    except ValueError as error:
        assert len(str(error)) > 10
        return
    assert all(os.path.abspath(path).startswith(f"{root}/files/p1") for path in table["path"])
    assert table["image_id"].is_unique


@FUZZ
@given(st.data())
def test_damaged_tables_end_in_a_sentence(small, data):
    folder, tables = small
    kind = data.draw(st.sampled_from(KINDS))
    for name, content in tables.items():
        (folder / f"mimic-cxr-2.0.0-{name}.csv").write_bytes(content)
    (folder / f"mimic-cxr-2.0.0-{kind}.csv").write_bytes(data.draw(mutated(tables[kind])))
    loads_or_says_why(folder)


@FUZZ
@given(st.data())
def test_damaged_gzip_ends_in_a_sentence(small, data):
    folder, tables = small
    for name, content in tables.items():
        (folder / f"mimic-cxr-2.0.0-{name}.csv").write_bytes(content)
    packed = gzip.compress(tables["split"], mtime=0)
    k = data.draw(st.integers(0, len(packed) - 1))
    broken = data.draw(
        st.sampled_from(
            [packed[:k], packed[:k] + bytes([packed[k] ^ data.draw(st.integers(1, 255))]) + packed[k + 1 :]]
        )
    )
    (folder / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(broken)  # preferred to the unpacked one
    try:
        loads_or_says_why(folder)
    finally:
        (folder / "mimic-cxr-2.0.0-split.csv.gz").unlink()
