"""JSRT: what the simulator writes is what the loader gives, in the format's own facts; broken texts end in one sentence."""

import os
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import label

from cxr_companion.core.images import resize
from cxr_companion.data import load
from cxr_companion.data.jsrt import load_jsrt, read_nodules, read_normals, read_scr_masks
from cxr_companion.data.vocabulary import FINDINGS
from cxr_companion.phantom.cohort import rows
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.film import render
from cxr_companion.phantom.hospitals import hospital_spec
from cxr_companion.phantom.jsrt_layout import LAYOUT

SPEC = hospital_spec("jsrt", 4, size=64, seed=1)  # 8 MB a film: four are enough for both kinds
CASES = int(os.environ.get("CXR_FUZZ", "100"))


VALID = (
    b"JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer\r"
    b"JPCLN002.IMG\t1\t30\t?\tFemale\t614\t1090\tbenign\tr.upper lobe\t(S5)\tgranuloma\r"
)
NORMAL = b"JPCNN001.IMG   48   female     non-nodule\rJPCNN002.IMG  ?  Male  non-nodule\r"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_layout(LAYOUT, SPEC, tmp_path_factory.mktemp("jsrt") / "root", processes=1)


@pytest.fixture(scope="module")
def cohort(root):
    return load("jsrt", root)


@pytest.fixture(scope="module")
def truth():
    """The truth table's rows in the loader's order: films with a nodule first."""
    return sorted(rows(SPEC), key=lambda row: row["sev_nodule"] == 0)


@pytest.fixture
def texts(root, tmp_path):
    """A root with the texts and empty films, to break."""
    shutil.copytree(root / "Clinical_Information", tmp_path / "Clinical_Information")
    (tmp_path / "All247images").mkdir()
    for film in (root / "All247images").iterdir():
        (tmp_path / "All247images" / film.name).touch()
    return tmp_path


# Round trip


def test_both_kinds_are_there(truth):
    assert 0 < sum(row["sev_nodule"] > 0 for row in truth) < len(truth)


def test_labels(cohort, truth):
    assert cohort.simulated
    assert cohort.table["Nodule/Mass"].tolist() == [float(row["sev_nodule"] > 0) for row in truth]
    assert cohort.table[[f for f in FINDINGS if f != "Nodule/Mass"]].isna().all(axis=None)
    nodule = cohort.table["Nodule/Mass"] == 1
    assert (
        cohort.table.loc[nodule, "malignant"].isin([0, 1]).all() and cohort.table.loc[~nodule, "malignant"].isna().all()
    )
    assert cohort.table.loc[nodule, "subtlety"].between(1, 5).all()


def test_people_and_views(cohort, truth, root):
    table = cohort.table
    assert (table["view"] == "PA").all() and table["patient_id"].is_unique
    assert table["sex"].tolist() == [row["sex"] for row in truth]
    raw = b"".join(p.read_bytes() for p in (root / "Clinical_Information").iterdir())
    for age, row, name in zip(table["age"], truth, table["image_id"], strict=True):
        line = next(line for line in raw.decode().split("\r") if line.startswith(name))
        assert age == row["age"] or (np.isnan(age) and "?" in line)
    assert "official" not in table  # JSRT has no split of its own


def test_boxes(cohort, truth):
    """Centre within 1 px of 2048; side within half a millimetre of .175 mm pixels, the text's own rounding."""
    for boxes, row in zip(cohort.table["boxes"], truth, strict=True):
        if row["sev_nodule"] == 0:
            assert boxes == ()
            continue
        pieces, n = label(render(SPEC, row["film_index"]).lesions["nodule"], np.ones((3, 3)))
        ys, xs = max((np.nonzero(pieces == k + 1) for k in range(n)), key=lambda where: len(where[0]))
        left, right, top, bottom = (32 * v for v in (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1))
        ((word, x, y, w, h),) = boxes
        assert word == "nodule" and w == h
        assert abs(x + w / 2 - (left + right) / 2) <= 1 and abs(y + h / 2 - (top + bottom) / 2) <= 1
        assert abs(w - max(right - left, bottom - top)) <= 0.5 / 0.175 + 1e-6


def test_pixels(cohort, truth):
    """Half a level of 4,096 is the format's own loss: 1/4095 in [-1, 1]."""
    for path, row in zip(cohort.table["path"], truth, strict=True):
        levels = np.fromfile(path, ">u2").reshape(2048, 2048)
        wanted = resize(render(SPEC, row["film_index"]).image, 2048)
        assert np.abs(1 - levels.astype(float) * 2 / 4095 - wanted).max() <= 1 / 4095 + 1e-6


def test_read_film_gives_the_film_back(cohort, truth):
    films = pytest.importorskip("cxr_companion.data.films")
    image = films.read_film(cohort.table["path"][0])
    assert image.shape == (2048, 2048) and image.dtype == np.float32
    assert np.abs(image - resize(render(SPEC, truth[0]["film_index"]).image, 2048)).max() <= 1 / 4095 + 1e-5


def test_masks(root, cohort, truth):
    for name, row in zip(cohort.table["image_id"], truth, strict=True):
        film, masks = render(SPEC, row["film_index"]), read_scr_masks(root, name)
        assert list(masks) == ["right lung", "left lung", "heart"]
        for mask, drawn in zip(masks.values(), (film.lung_right, film.lung_left, film.heart), strict=True):
            assert mask.shape == (1024, 1024) and mask.dtype == bool
            assert (mask == drawn.repeat(16, 0).repeat(16, 1)).all()


# The format's facts, as literals


def test_files_have_jsrts_names_and_size(root):
    films = sorted(p.name for p in (root / "All247images").iterdir())
    assert all(re.fullmatch(r"JPC(LN|NN)\d{3}\.IMG", name) for name in films)
    assert {"JPCLN001.IMG", "JPCNN001.IMG"} <= set(films)
    assert {p.stat().st_size for p in (root / "All247images").iterdir()} == {8_388_608}
    assert (
        np.fromfile(root / "All247images/JPCLN001.IMG", ">u2").max()
        <= 4095
        < np.fromfile(root / "All247images/JPCLN001.IMG", "<u2").max()
    ), "big-endian, 12 bits"
    assert (root / "SIMULATED.txt").is_file()


def test_air_is_bright_as_stored(root):
    levels = np.fromfile(root / "All247images/JPCLN001.IMG", ">u2").reshape(2048, 2048)
    masks = read_scr_masks(root, "JPCLN001")
    lung, heart = (np.median(levels[::2, ::2][masks[name]]) for name in ("right lung", "heart"))
    assert lung > heart + 300


def test_clinical_texts_have_jsrts_form(root):
    nodules = (root / "Clinical_Information/CLNDAT_EN.txt").read_bytes()
    normals = (root / "Clinical_Information/CNNDAT_EN.TXT").read_bytes()
    assert b"\n" not in nodules + normals and nodules.endswith(b"\r") and normals.endswith(b"\r")
    line = rb"JPCLN\d{3}\.IMG\t[1-5]\t\d+\t(\d+|\?)\t(?i:male|female)\t\d+\t\d+\t(malignant|benign)\t[lr]\.\w+ lobe(\t[^\t]+)?\t[^\t]+"
    assert all(re.fullmatch(line, record) for record in nodules.split(b"\r")[:-1])
    line = rb"JPCNN\d{3}\.IMG {2,}(\d+|\?) {2,}(?i:male|female) {2,}non-nodule"
    assert all(re.fullmatch(line, record) for record in normals.split(b"\r")[:-1])


def test_scr_masks_have_their_form(root):
    for name in ("right lung", "left lung", "heart"):
        with Image.open(root / "fold1/masks" / name / "JPCLN001.gif") as picture:
            assert picture.format == "GIF" and picture.size == (1024, 1024)
            assert set(np.unique(np.asarray(picture.convert("L")))) == {0, 255}
    masks = read_scr_masks(root, "JPCLN001")
    assert np.nonzero(masks["right lung"])[1].mean() < 512 < np.nonzero(masks["left lung"])[1].mean()


# Bad input


def test_wrong_root_names_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match="holds none of Clinical_Information/CLNDAT_EN.txt, .*is it the root of jsrt"):
        load_jsrt(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        load_jsrt(tmp_path / "none")


def test_a_missing_text(texts):
    (texts / "Clinical_Information/CNNDAT_EN.TXT").unlink()
    with pytest.raises(ValueError, match="holds none of Clinical_Information/CNNDAT_EN.TXT"):
        load_jsrt(texts)


def test_a_missing_film(texts):
    (texts / "All247images/JPCLN001.IMG").unlink()
    with pytest.raises(ValueError, match="jsrt: 1 of 4 films of the table are missing, such as JPCLN001 below"):
        load_jsrt(texts)
    assert load_jsrt(texts, on_error="skip").skipped["image_id"].tolist() == ["JPCLN001"]


def test_an_img_of_the_wrong_length(texts):
    films = pytest.importorskip("cxr_companion.data.films")
    film = texts / "All247images/JPCLN001.IMG"
    film.write_bytes(b"\0" * 8_388_606)
    with pytest.raises(ValueError, match="JPCLN001.IMG.*8[,_]?388[,_]?60"):
        films.read_film(film)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\tmale\t", b"\tman\t", "sex of JPCLN"),
        (b"benign", b"harmless", "rating of JPCLN"),
        (b"malignant", b"harmless", "rating of JPCLN"),
        (b"JPCLN002.IMG", b"JPCLN001.IMG", "two records of JPCLN001"),
        (b"JPCLN002.IMG", b"JPXLN002.IMG", "text after JPCLN001 belongs to no film"),
        (b"JPCLN", b"J", "holds no record such as JPCLN001.IMG"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, old, new, words):
    assert old in VALID
    (tmp_path / "CLNDAT_EN.txt").write_bytes(VALID.replace(old, new))
    (tmp_path / "CNNDAT_EN.TXT").write_bytes(NORMAL)
    with pytest.raises(ValueError, match=words):
        load_jsrt(tmp_path)


def test_a_folder_with_letters_beyond_ascii(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jsrt") / "肺結節 é"
    shutil.copytree(texts, folder)
    assert len(load_jsrt(folder)) == 4


# Fuzz


@st.composite
def broken(draw, valid: bytes):
    """Flip, insert, delete, cut, repeat, or write in another encoding."""
    data = valid
    for _ in range(draw(st.integers(1, 4))):
        at, n = draw(st.integers(0, max(0, len(data)))), draw(st.integers(1, 12))
        how = draw(st.sampled_from(("flip", "insert", "delete", "cut", "repeat", "swap", "encode")))
        if how == "flip":
            data = data[:at] + bytes(draw(st.binary(min_size=1, max_size=1))) + data[at + 1 :]
        elif how == "insert":
            data = (
                data[:at]
                + draw(st.binary(max_size=n) | st.sampled_from((b"\t", b"\r", b"?", b"-1", b"JPCLN001.IMG")))
                + data[at:]
            )
        elif how == "delete":
            data = data[:at] + data[at + n :]
        elif how == "cut":
            data = data[:at]
        elif how == "repeat":
            data = data[:at] + data[at : at + 80] + data[at:]
        elif how == "swap":
            data = data.replace(
                *draw(st.sampled_from(((b"\t", b" "), (b"\r", b""), (b"\r", b"\r\n"), (b"   ", b"\t"))))
            )
        else:
            name = draw(st.sampled_from(("utf-16", "utf-8-sig", "cp932", "utf-32-be")))
            data = data.decode("latin-1").encode(name, errors="ignore")
    return data


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002"):
        (folder / f"{name}.IMG").touch()
    return folder


@settings(max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(nodules=broken(VALID), normals=st.just(NORMAL) | broken(NORMAL))
def test_broken_texts_raise_nothing_but_value_errors(fuzzed, nodules, normals):
    (fuzzed / "CLNDAT_EN.txt").write_bytes(nodules)
    (fuzzed / "CNNDAT_EN.TXT").write_bytes(normals)
    try:
        table = load_jsrt(fuzzed, on_error="skip").table
    except ValueError as error:
        assert str(error)
        return
    assert table["image_id"].str.fullmatch(r"JPC(LN|NN)\d{3}").all()
    assert table["nodule_x"].dropna().between(0, 2048).all() and table["sex"].isin(["F", "M", ""]).all()


def test_the_valid_texts_are_valid(fuzzed):
    (fuzzed / "CLNDAT_EN.txt").write_bytes(VALID)
    (fuzzed / "CNNDAT_EN.TXT").write_bytes(NORMAL)
    assert (len(read_nodules(fuzzed)), len(read_normals(fuzzed)), len(load_jsrt(fuzzed))) == (2, 2, 4)
