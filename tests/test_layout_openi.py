"""Open-i's layout: what the simulator writes is what the loader gives, and both keep to the collection's own form."""

import os
import re
import shutil
import warnings
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread

from cxr_companion.core.images import write_png
from cxr_companion.data import load
from cxr_companion.data.openi import load_openi, read_index, read_report
from cxr_companion.data.vocabulary import FINDINGS, annotated
from cxr_companion.phantom.cohort import rows
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.film import render
from cxr_companion.phantom.hospitals import SHARED, hospital_spec
from cxr_companion.phantom.openi_layout import LAYOUT, index_terms

SPEC = hospital_spec("openi", 40, size=64)
CASES = settings(
    max_examples=int(os.environ.get("CXR_FUZZ", "100")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Forty films of one simulated hospital in Open-i's layout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_QUIET", "1")
        return write_layout(LAYOUT, SPEC, tmp_path_factory.mktemp("openi") / "root", processes=1)


@pytest.fixture
def copy(root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    return tmp_path / "root"


def in_order(cohort):
    """The table in the order of the truth: patient 1, 2, 3, ..."""
    return cohort.table.assign(n=cohort.table["patient_id"].astype(int)).sort_values("n").reset_index(drop=True)


def shown(path):
    """A DICOM film as the standard says it is shown, without our reader: window, then polarity."""
    data = dcmread(path)
    low = data.WindowCenter - 0.5 - (data.WindowWidth - 1) / 2
    image = (data.pixel_array - low) / (data.WindowWidth - 1) * 2 - 1
    return -image if data.PhotometricInterpretation == "MONOCHROME1" else image


# ---- round trip


def test_labels_come_back(root):
    table, truth = in_order(load("openi", root)), rows(SPEC)
    assert len(table) == len(truth) == 40
    known = annotated("openi")
    seen = {name: shared for name, shared in SHARED.items() if shared in known}
    assert sorted(set(SHARED) - set(seen)) == ["pneumoconiosis"]
    unindexed = 0
    for (_, row), want in zip(table.iterrows(), truth, strict=True):
        terms = index_terms(SPEC, want)
        unindexed += terms == (["No Indexing"], [])
        present = {shared for name, shared in seen.items() if want[f"sev_{name}"] > 0}
        for name in FINDINGS:
            if name not in known or terms == (["No Indexing"], []):
                assert np.isnan(row[name]), (want["film_index"], name)
            elif name == "No Finding":
                assert row[name] == float(terms == (["normal"], [])), want["film_index"]
            else:
                assert row[name] == float(name in present), (want["film_index"], name)
    assert unindexed > 0, "the fixture should hold a report that nobody indexed"
    assert (table["No Finding"] == 1).sum() > 3 and (table[list(seen.values())] == 1).sum().sum() > 10


def test_what_the_set_lacks_is_unknown(root):
    table = load("openi", root).table
    assert table["age"].isna().all() and set(table["sex"]) == set(table["view"]) == {""}
    assert all(boxes == () for boxes in table["boxes"])
    assert table["patient_id"].is_unique and (table["study_id"] == table["patient_id"]).all()


def test_views_come_from_headers_when_asked(root):
    table, truth = in_order(load("openi", root, views="headers")), rows(SPEC)
    given = [(view, want["view"]) for view, want in zip(table["view"], truth, strict=True) if view]
    assert 15 < len(given) < 36 and all(view == want for view, want in given)


def test_pixels_come_back(root):
    dicom, png = in_order(load("openi", root)), in_order(load("openi", root, films="png"))
    assert dicom["path"].str.endswith(".dcm").all() and png["path"].str.endswith(".png").all()
    assert set(dicom["image_id"]) == set(png["image_id"]) and len(dicom) == 40  # no film twice
    photometric, cohort = set(), load("openi", root, films="png")
    place = {name: i for i, name in enumerate(cohort.table["image_id"])}
    for i in range(0, 40, 3):
        want = render(SPEC, i).image
        # 10 bits with a window leave 896 steps over [-1, 1]: half a step is .0011; 8 bits leave 255: .0039
        np.testing.assert_allclose(shown(dicom["path"][i]), want, atol=1.01 / 895)
        np.testing.assert_allclose(cohort.read(place[png["image_id"][i]]), want, atol=1.01 / 255)
        photometric.add(dcmread(dicom["path"][i]).PhotometricInterpretation)
    assert photometric == {"MONOCHROME1", "MONOCHROME2"}


def test_cohort_reads_dicom(root):
    pytest.importorskip("cxr_companion.data.films", reason="the chapter that reads films of all kinds isn't there yet")
    cohort = load("openi", root)
    for i in range(0, 40, 7):
        want = render(SPEC, int(cohort.table["patient_id"][i]) - 1).image
        np.testing.assert_allclose(cohort.read(i), want, atol=1.01 / 895)


# ---- the collection's own form, as literals


def test_names_are_the_collections(root):
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {
        "ecgen-radiology/1.xml",
        "ecgen-radiology/2.xml",
        "NLMCXR_png/CXR1_1_IM-0001-3001.png",
        "NLMCXR_dcm/1/1_IM-0001-3001.dcm",
        "SIMULATED.txt",
    } <= names
    assert sum(bool(re.fullmatch(r"NLMCXR_png/CXR(\d+)_IM-\d{4}-1001\.png", name)) for name in names) == 39
    assert sum(bool(re.fullmatch(r"NLMCXR_dcm/(\d+)/\1_IM-\d{4}-1001\.dcm", name)) for name in names) == 39
    assert sum(name.startswith("ecgen-radiology/") for name in names) == 41  # one report has no film


def test_reports_have_the_collections_elements(root):
    text = (root / "ecgen-radiology/1.xml").read_text()
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n') and '<uId id="CXR1"/>' in text
    tree = ElementTree.fromstring(text)
    assert [child.tag for child in tree] == ["uId", "MedlineCitation", "MeSH", "parentImage"]
    assert tree.find("uId").attrib == {"id": "CXR1"}
    labels = [node.get("Label") for node in tree.iterfind("MedlineCitation/Article/Abstract/AbstractText")]
    assert labels == ["COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION"]
    assert [node.get("id") for node in tree.iterfind("parentImage")] == ["CXR1_1_IM-0001-3001"]
    assert "SIMULATED" in text and "creativecommons" not in text  # not their report, so not their licence


def test_terms_are_words_that_real_reports_have(root):
    words = {
        "normal", "No Indexing", "Nodule", "Mass", "Consolidation", "Pleural Effusion", "Cardiomegaly", "Pneumothorax",
        "Pulmonary Atelectasis", "Pulmonary Edema", "Pulmonary Fibrosis", "Implanted Medical Device", "Catheters, Indwelling",
        "Tube, Inserted", "Sutures", "Spondylosis",
    }  # fmt: skip
    written = set()
    for path in (root / "ecgen-radiology").glob("*.xml"):
        tree = ElementTree.parse(path)
        written |= {node.text.split("/")[0] for node in tree.iterfind("MeSH/major")}
        assert all(node.text == node.text.lower() for node in tree.iterfind("MeSH/automatic"))
    assert written <= words and len(written) > 8


def test_files_have_the_collections_form(root):
    for path in (root / "NLMCXR_png").iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
    headers = [dcmread(path, stop_before_pixels=True) for path in (root / "NLMCXR_dcm").rglob("*.dcm")]
    assert {h.Modality for h in headers} <= {"CR", "DX"} and {h.BitsStored for h in headers} <= {10, 12, 14, 15}
    assert {h.PhotometricInterpretation for h in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert {h.get("ViewPosition", "") for h in headers} <= {"PA", "AP", ""}
    assert all("SIMULATED" in h.ImageComments and "PatientAge" not in h for h in headers)


def test_kaggles_edition(tmp_path):
    """Kaggle's headers, exact, and its two spellings of nothing."""
    (tmp_path / "indiana_reports.csv").write_text(
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        '1,normal,normal,Xray Chest PA and Lateral,Positive TB test,None.,"The cardiac silhouette, and more",Normal.\n'
        '2,Cardiomegaly/borderline;Pulmonary Artery/enlarged,Cardiomegaly;Pulmonary Artery,"Chest, 2 views",,None.,,\n'
        "3,No Indexing,No Indexing,,,,,\n"
    )
    names = ("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001", "3_IM-1384-1001")
    lines = [f"{n[0]},{n}.dcm.png,{'Lateral' if n.endswith('3001') else 'Frontal'}" for n in names]
    (tmp_path / "indiana_projections.csv").write_text("\n".join(["uid,filename,projection", *lines]) + "\n")
    for name in names:
        write_png(tmp_path / f"images/images_normalized/{name}.dcm.png", np.zeros((32, 32)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # four films aren't 7,470
        cohort = load("openi", tmp_path)
    assert cohort.table["image_id"].tolist() == [f"CXR{name}" for name in names] and not cohort.simulated
    assert cohort.table["view"].tolist() == ["", "lateral", "", ""]
    assert cohort.table["Cardiomegaly"].fillna(-1).tolist() == [0, 0, 1, -1]
    assert cohort.table["No Finding"].fillna(-1).tolist() == [1, 1, 0, -1]


# ---- bad input


def bomb(root):
    laughs = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
    text = f'<!DOCTYPE e [<!ENTITY l0 "ha">{laughs}]><eCitation><uId id="CXR5"/>&l9;</eCitation>'
    (root / "ecgen-radiology/5.xml").write_text(text)


def external(root):
    text = '<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]><eCitation><uId id="CXR5"/>&x;</eCitation>'
    (root / "ecgen-radiology/5.xml").write_text(text)


def cut(root):
    file = root / "ecgen-radiology/5.xml"
    file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize(
    "change, words",
    (
        (lambda root: shutil.rmtree(root), "is not a folder: ROOT must name the folder of openi"),
        (lambda root: shutil.rmtree(root / "ecgen-radiology"), "holds none of ecgen-radiology, NLMCXR_reports"),
        (bomb, "5.xml declares entities"),
        (external, "5.xml declares entities"),
        (cut, "5.xml can't be read as XML"),
        (lambda root: (root / "ecgen-radiology/5.xml").write_bytes(b"\x1f\x8b" * 50), "5.xml can't be read as XML"),
        (lambda root: (root / "ecgen-radiology/99.xml").write_text("<a/>"), "99.xml has no uId such as CXR1"),
        (lambda root: shutil.copy(root / "ecgen-radiology/5.xml", root / "ecgen-radiology/99.xml"), "both report CXR5"),
        (lambda root: shutil.rmtree(root / "NLMCXR_dcm/7"), "1 of 40 films of the table are missing, such as CXR7_IM-"),
        (lambda root: [shutil.rmtree(root / f"NLMCXR_{k}") for k in ("dcm", "png")], "holds no .dcm or .png films"),
    ),
)
def test_bad_roots_end_in_a_sentence(copy, change, words):
    change(copy)
    with pytest.raises(ValueError, match=re.escape(words)):
        load("openi", copy)


def test_skipping_names_what_is_left_out(copy):
    bomb(copy)
    shutil.rmtree(copy / "NLMCXR_dcm/7")
    cohort = load("openi", copy, on_error="skip")
    assert len(cohort) == 38
    reasons = dict(cohort.skipped.itertuples(index=False))
    assert sorted(name.split("_")[0] for name in reasons) == ["5.xml", "CXR7"]
    assert "declares entities" in reasons["5.xml"]


def test_a_root_with_strange_letters(copy, tmp_path):
    other = copy.rename(tmp_path / "Röntgen – 胸部 films")
    assert len(load("openi", other)) == 40
    for path in (other / "NLMCXR_dcm").rglob("*.dcm"):
        path.unlink()
    assert load("openi", other).table["path"].str.endswith(".png").all()  # falls back to PNG for all films


def test_wrong_options_are_refused(root):
    for options, words in (
        ({"films": "jpg"}, "films must be 'auto', 'dicom' or 'png', got 'jpg'"),
        ({"views": "headers", "films": "png"}, "views='headers' needs DICOM films"),
        ({"views": "nowhere.csv"}, "nowhere.csv is missing"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
        ({"vote": "any"}, "openi has no option 'vote'; it has views, films"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            load("openi", root, **options)


def test_a_simulated_root_never_warns(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load("openi", root).simulated


# ---- fuzz: mutations of valid files end in a cohort or in a ValueError


REPORT = (
    b'<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n   <uId id="CXR2"/>\n   <MedlineCitation><Article><Abstract>'
    b'<AbstractText Label="FINDINGS">XXXX</AbstractText></Abstract></Article></MedlineCitation>\n   <MeSH>'
    b"<major>Cardiomegaly/borderline</major><automatic>sternotomy</automatic></MeSH>\n"
    b'   <parentImage id="CXR2_IM-0652-1001"><figureId>F1</figureId></parentImage>\n</eCitation>\n'
)
REPORTS = (
    b"uid,MeSH,Problems,image,indication,comparison,findings,impression\n1,normal,normal,PA,,None.,,\n"
    b'2,Cardiomegaly/borderline;Opacity/lung,Cardiomegaly;Opacity,"Chest, 2 views",,,,\n'
)
PROJECTIONS = b"uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n2,2_IM-0652-1001.dcm.png,Lateral\n"
WHERE = st.integers(0, 10_000)
PIECE = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from(
        [b"<", b"&", b'"', b",", b";", b"\n", b"\r", b"\x00", b"]]>", b"<!DOCTYPE a>", b"&lt;", b"/", b"-1"]
    ),
)
EDIT = st.one_of(
    st.tuples(st.just("insert"), WHERE, PIECE),
    st.tuples(st.just("delete"), WHERE, st.integers(1, 40)),
    st.tuples(st.just("flip"), WHERE, st.integers(1, 255)),
    st.tuples(st.just("cut"), WHERE, st.none()),
    st.tuples(st.just("column"), WHERE, st.sampled_from(["drop", "twice", "rename"])),
    st.tuples(st.just("encode"), st.none(), st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "latin-1", "cp500"])),
)


def mutated(data, edits):
    """Apply byte edits, one after the other."""
    for kind, where, what in edits:
        place = where % (len(data) + 1) if where is not None else 0
        if kind == "insert":
            data = data[:place] + what + data[place:]
        elif kind == "delete":
            data = data[:place] + data[place + what :]
        elif kind == "flip" and place < len(data):
            data = data[:place] + bytes([data[place] ^ what]) + data[place + 1 :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "column":
            data = columns_changed(data, place, what)
        elif kind == "encode":
            data = data.decode("latin-1").encode(what)
    return data


def columns_changed(data, place, what):
    """Drop, double or rename a column of a CSV file (or a tag-like piece of another)."""
    lines = [line.split(b",") for line in data.split(b"\n")]
    k = place % max(len(lines[0]), 1)
    for i, line in enumerate(lines):
        if k < len(line):
            line[k : k + 1] = {"drop": [], "twice": [line[k]] * 2}.get(what, [line[k] + b"x" * (i == 0)])
    return b"\n".join(b",".join(line) for line in lines)


@pytest.fixture(scope="module")
def native_fuzz(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz-xml")
    (folder / "ecgen-radiology").mkdir()
    write_png(folder / "NLMCXR_png/CXR2_IM-0652-1001.png", np.zeros((32, 32)))
    return folder


@pytest.fixture(scope="module")
def kaggle_fuzz(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz-csv")
    for name in ("1_IM-0001-4001", "2_IM-0652-1001"):
        write_png(folder / f"images/images_normalized/{name}.dcm.png", np.zeros((32, 32)))
    return folder


def survives(read):
    """Only a ValueError with a message may come out; a cohort otherwise."""
    try:
        return read()
    except ValueError as error:
        assert str(error).strip() and type(error) in (ValueError,), repr(error)
        return None


def test_unchanged_files_load(native_fuzz, kaggle_fuzz):
    (native_fuzz / "ecgen-radiology/2.xml").write_bytes(REPORT)
    assert load_openi(native_fuzz).table["Cardiomegaly"].tolist() == [1]
    (kaggle_fuzz / "indiana_reports.csv").write_bytes(REPORTS)
    (kaggle_fuzz / "indiana_projections.csv").write_bytes(PROJECTIONS)
    assert load_openi(kaggle_fuzz).table["Cardiomegaly"].tolist() == [0, 1]


@CASES
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_mutated_reports(native_fuzz, edits):
    file = native_fuzz / "ecgen-radiology/2.xml"
    file.write_bytes(mutated(REPORT, edits))
    survives(lambda: read_report(file))
    survives(lambda: load_openi(native_fuzz))
    survives(lambda: load_openi(native_fuzz, on_error="skip"))


@CASES
@given(edits=st.lists(EDIT, min_size=1, max_size=4), which=st.sampled_from(["reports", "projections"]))
def test_mutated_tables(kaggle_fuzz, edits, which):
    for name, data in (("reports", REPORTS), ("projections", PROJECTIONS)):
        content = mutated(data, edits) if name == which else data
        (kaggle_fuzz / f"indiana_{name}.csv").write_bytes(content)
    table = survives(lambda: read_index(kaggle_fuzz)[0])
    assert table is None or set(table["projection"]) <= {"Frontal", "Lateral"}
    cohort = survives(lambda: load_openi(kaggle_fuzz, on_error="skip"))
    if cohort is not None:
        values = cohort.table[list(FINDINGS)].to_numpy(float)
        assert (np.isnan(values) | (values == 0) | (values == 1)).all()


@CASES
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_mutated_views(kaggle_fuzz, edits):
    (kaggle_fuzz / "indiana_reports.csv").write_bytes(REPORTS)
    (kaggle_fuzz / "indiana_projections.csv").write_bytes(PROJECTIONS)
    views = kaggle_fuzz / "views.csv"
    views.write_bytes(mutated(b"imageid,View Position\nCXR1_1_IM-0001-4001,PA\nCXR2_IM-0652-1001,LL\n", edits))
    cohort = survives(lambda: load_openi(kaggle_fuzz, views=views))
    assert cohort is None or set(cohort.table["view"]) <= {"PA", "AP", "lateral", ""}


def test_counts_of_unindexed_reports_are_unknown_not_absent(root):
    """The one mistake that would turn unknown into absent, seen from the outside."""
    table = load("openi", root).table
    blank = table[table["terms"] == "No Indexing"]
    assert len(blank) and blank[list(FINDINGS)].isna().all(axis=None)
    assert pd.isna(table["Support Devices"]).all()
