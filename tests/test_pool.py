"""Six simulated hospitals in one pool: nothing unknown becomes absent, nobody is on two sides, and nothing is said twice."""

import json
import os
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_companion.data import DATASETS, load, load_pool, read_roots
from cxr_companion.data.cards import CARDS, card_markdown, check_counts
from cxr_companion.data.cohort import COLUMNS, Cohort
from cxr_companion.data.pool import annotation_table, pool
from cxr_companion.data.splits import check_split, load_split, save_split, split, split_by_patient, stratified_split
from cxr_companion.data.vocabulary import FINDINGS, SYNONYMS, annotated
from cxr_companion.phantom import cxr8_layout, openi_layout
from cxr_companion.phantom.cohort import CohortSpec, rows
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.hospitals import hospital_spec

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
CASES = settings(max_examples=int(os.environ.get("CXR_FUZZ", "100")), deadline=None, derandomize=True, database=None)
OPENI = hospital_spec("openi", 30, size=32)
SIX = CohortSpec(seed=6, n_films=40, size=32)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two simulated roots and the file that names them."""
    folder = tmp_path_factory.mktemp("roots")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_QUIET", "1")
        write_layout(openi_layout.LAYOUT, OPENI, folder / "indiana", processes=1)
        write_layout(cxr8_layout.PHANTOM, SIX, folder / "phantom", processes=1)
    (folder / "roots.yaml").write_text("phantom: phantom\nopeni:\n  root: indiana\n  views: headers\n")
    return folder


def made_up(dataset, n_patients=150, seed=0, simulated=False, **columns):
    """A cohort that annotates what its set does, one to four films a patient, rare findings among them."""
    rng, lines = np.random.default_rng(seed), []
    known = [name for name in annotated(dataset) if name != "No Finding"] if dataset in SYNONYMS else ["Edema"]
    for p in range(n_patients):
        site = f"{dataset}-{rng.choice(['a', 'b', 'c'], p=[0.7, 0.25, 0.05])}"
        for i in range(rng.integers(1, 5)):
            labels = {name: float(rng.random() < 0.02 + 0.15 * (k % 3)) for k, name in enumerate(known)}
            view = str(rng.choice(["PA", "AP"], p=[0.8, 0.2]))
            facts = dict(image_id=f"{dataset}-{p}-{i}", patient_id=str(p), dataset=dataset, site=site, view=view)
            lines.append(dict.fromkeys(FINDINGS, np.nan) | labels | facts)
    table = pd.DataFrame(lines).assign(sex="F", age=50.0, path="", boxes=[()] * len(lines)).assign(**columns)
    return Cohort(table[list(dict.fromkeys([*COLUMNS, *columns]))], simulated)


def off(cohort, parts):
    """Mean distance of findings', views' and sites' shares from what was asked, in points."""
    table = cohort.table.assign(part=parts)
    groups = [table[table[name] == 1] for name in FINDINGS]
    groups += [part for column in ("view", "site") for _, part in table.groupby(column)]
    return 100 * np.mean([abs((g["part"] == p).mean() - f) for g in groups if len(g) for p, f in SHARES.items()])


# ---- pool


def test_two_simulated_sets_from_a_file(roots):
    both = load_pool(roots / "roots.yaml")
    assert both.simulated and len(both) == 70
    assert both.table["dataset"].value_counts().to_dict() == {"phantom": 40, "openi": 30}
    sites = both.table.groupby("dataset")["site"].agg(set)
    assert sites["openi"] == {"openi"} and sites["phantom"] <= set("ABCDEF")  # a site of its own stays
    openi = both.table[both.table["dataset"] == "openi"]
    assert openi["Pneumoconiosis"].isna().all() and openi["Support Devices"].isna().all() and openi["age"].isna().all()
    assert set(openi["view"]) <= {"PA", "AP", ""} and (openi["view"] != "").any()  # the option reached the loader
    phantom = both.table[both.table["dataset"] == "phantom"].reset_index(drop=True)
    assert phantom["age"].tolist() == [row["age"] for row in rows(SIX)]
    assert both.read(0).shape == (32, 32)


def test_unknown_is_never_absent():
    sets = ("cxr8", "chexpert", "mimic", "vbd", "openi", "jsrt")
    table = annotation_table(pool([made_up(name) for name in sets]))
    assert len(table) == len(sets) * len(FINDINGS)
    for (name, finding), row in table.set_index(["dataset", "finding"]).iterrows():
        known = finding in annotated(name) and finding != "No Finding"
        assert bool(row["annotated"]) == known
        assert row["present"] + row["absent"] == (row["films"] if known else 0)
        assert row["unknown"] == (0 if known else row["films"])


@pytest.mark.parametrize(
    "cohorts, words",
    (
        (lambda: [], "nothing to pool"),
        (lambda: [made_up("cxr8", 3), made_up("openi", 3, simulated=True)], "simulated films (openi) and real ones"),
        (lambda: [made_up("cxr8", 3), made_up("cxr8", 3, seed=1)], "data set cxr8 stands in more than one cohort"),
        (
            lambda: [made_up("cxr8", 3), Cohort(made_up("cxr8", 3).table.assign(dataset="vbd"))],
            "image id cxr8-0-0 stands in cxr8 and vbd",
        ),
    ),
)
def test_pools_that_would_lie_are_refused(cohorts, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        pool(cohorts())


def test_columns_of_one_set_stay_unknown_in_the_other():
    both = pool(
        [made_up("mimic", 9, study_id="s1", official="train", width=3056.0), made_up("jsrt", 9, nodule_mm=12.0)]
    )
    jsrt = both.table[both.table["dataset"] == "jsrt"]
    assert set(jsrt["official"]) == set(jsrt["study_id"]) == {""} and jsrt["width"].isna().all()
    assert both.table.loc[both.table["dataset"] == "mimic", "nodule_mm"].isna().all()


# ---- roots


@CASES
@given(st.binary(max_size=60) | st.text(alphabet="cxr8:openi \n-[]{}&*!'\"#~/.", max_size=60).map(str.encode))
def test_any_file_of_roots_ends_in_roots_or_a_sentence(roots, content):
    file = roots / "fuzz.yaml"
    file.write_bytes(content)
    try:
        found = read_roots(file)
    except ValueError as error:
        assert type(error) is ValueError and str(file) in str(error)
    else:
        assert all(name in DATASETS and entry["root"].is_dir() for name, entry in found.items())


def test_roots_are_relative_to_their_file(roots, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = read_roots(roots / "roots.yaml")
    assert found["phantom"] == {"root": roots / "phantom"}
    assert found["openi"] == {"root": roots / "indiana", "views": "headers"}
    (tmp_path / "six.yaml").write_text(yaml.safe_dump({name: str(roots / "phantom") for name in DATASETS}))
    assert list(read_roots("six.yaml")) == sorted(DATASETS)


# ---- cards


def test_a_real_subset_warns_and_a_simulated_root_doesnt(roots, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load("phantom", roots / "phantom")
    header = (roots / "phantom/Data_Entry_2017_v2020.csv").read_text().splitlines()[:2]
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(header) + "\n")
    name = header[1].split(",")[0]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_bytes((roots / "phantom/images_001/images" / name).read_bytes())
    with pytest.warns(UserWarning, match="cxr8: 1 films, published are 112,120.*A subset is fine"):
        assert len(load("cxr8", tmp_path)) == 1


def test_cards_state_the_published_counts():
    """Counts as literals, from the publishers' tables and pages."""
    films = {name: card.films for name, card in CARDS.items()}
    assert films == {
        "cxr8": (112_120,), "openi": (7_470, 7_469, 7_466), "jsrt": (247,), "chexpert": (223_648,), "mimic": (377_110,),
        "vbd": (18_000, 15_000, 3_000), "phantom": (),
    }  # fmt: skip
    patients = {name: card.patients for name, card in CARDS.items() if card.patients}
    assert patients == {"cxr8": 30_805, "openi": 3_851, "jsrt": 247, "mimic": 64_588}
    assert set(CARDS) == set(DATASETS)
    for name in CARDS:
        assert card_markdown(name).startswith(f"### {CARDS[name].title} (`{name}`)")


def test_one_sentence_for_the_whole_and_none_for_a_whole_part():
    nih = made_up("cxr8", 100)
    official = ["test" if int(p) % 5 == 0 else "train_val" for p in nih.table["patient_id"]]
    said = check_counts(Cohort(nih.table.assign(official=official)))
    assert said == [f"cxr8: {len(nih)} films, published are 112,120"]
    assert check_counts(Cohort(nih.table, simulated=True)) == []
    both = pool([nih, made_up("jsrt", 5)])
    assert [text.split(":")[0] for text in check_counts(both)] == ["cxr8", "jsrt"]


# ---- splits


@pytest.mark.parametrize("seed", range(4))
def test_stratified_shares_are_closer_and_nobody_is_torn(seed):
    cohort = pool([made_up("cxr8", seed=seed), made_up("chexpert", seed=seed + 10), made_up("openi", seed=seed + 20)])
    dealt, hashed = stratified_split(cohort, SHARES, seed), split_by_patient(cohort, SHARES, seed)
    check_split(cohort, dealt)
    assert off(cohort, dealt) < 0.75 * off(cohort, hashed)  # .33 to .66 of it in six seeds
    order = np.random.default_rng(seed).permutation(len(cohort))
    assert (stratified_split(cohort.where(order), SHARES, seed) == dealt[order]).all()


def test_pooling_moves_nobody():
    sets = [made_up("cxr8"), made_up("vbd", seed=1)]
    alone = np.concatenate([split(cohort, SHARES, 3) for cohort in sets])
    assert (split(pool(sets), SHARES, 3) == alone).all()


def test_official_splits_are_kept_in_a_pool(tmp_path):
    mimic, nih, jsrt = made_up("mimic"), made_up("cxr8", seed=1), made_up("jsrt", seed=2)
    turn = mimic.table["patient_id"].astype(int) % 10
    mimic = Cohort(mimic.table.assign(official=np.select([turn == 0, turn == 1], ["test", "val"], "train")))
    lists = np.where(nih.table["patient_id"].astype(int) % 4 == 0, "test", "train_val")
    cohort = pool([mimic, Cohort(nih.table.assign(official=lists)), jsrt])
    parts = split(cohort, SHARES)
    table = cohort.table.assign(part=parts)
    own = table[table["dataset"] == "mimic"]
    assert (own["part"] == own["official"]).all()
    own = table[table["dataset"] == "cxr8"]
    assert ((own["part"] == "test") == (own["official"] == "test")).all() and set(own["part"]) == set(SHARES)
    assert set(table.loc[table["dataset"] == "jsrt", "part"]) == set(SHARES)
    save_split(tmp_path / "split.json", cohort, parts)
    assert (load_split(tmp_path / "split.json", cohort) == parts).all()
    assert not re.search(r"mimic|cxr8", json.dumps((tmp_path / "split.json").read_text()))  # hashed


def test_an_official_split_with_a_patient_on_two_sides_is_refused():
    cohort = made_up("cxr8")
    official = np.where(np.arange(len(cohort)) % 2 == 0, "test", "train_val")
    cohort = Cohort(cohort.table.assign(official=official))
    with pytest.raises(ValueError, match="cxr8: .* patients are on more than one side of the official split"):
        split(cohort, SHARES)
    check_split(cohort, split(cohort, SHARES, use_official=False))
