"""Papers, presets and the Snakefile speak of the same experiments; nothing answers a claim that nobody measured."""

from pathlib import Path

import pytest

from cxr_companion.report.claims import load_claims, paper_tags
from cxr_companion.report.execute import checked_parameters
from cxr_companion.report.figures import find_notebook
from cxr_companion.report.pipeline import PRESETS, VARIANTS, Request, listed

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = [
    (tag, topic) for tag in paper_tags(ROOT / "papers") for topic in load_claims(tag, ROOT / "papers").experiments
]


def test_the_four_papers_are_there():
    assert paper_tags(ROOT / "papers") == ["dong2022", "kim2022", "myong2023", "segal2021"]


def test_snakefile_and_presets_list_the_same_experiments(home):
    assert sorted((e.tag, e.topic) for e in listed(Request(preset="smoke"))) == sorted(EXPERIMENTS)


@pytest.mark.parametrize("tag, topic", EXPERIMENTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_their_notebook(home, tag, topic, preset):
    presets = load_claims(tag).experiments[topic]
    checked_parameters(find_notebook(tag, topic), presets[preset])
    for variant in set(presets) & set(VARIANTS):
        checked_parameters(find_notebook(tag, topic), presets["paper"] | presets[variant])
    for name in set(presets) - set(PRESETS) - set(VARIANTS):
        own = {k: v for k, v in presets[name].items() if k not in PRESETS}
        checked_parameters(find_notebook(tag, topic), own | presets[name].get(preset, {}))


@pytest.mark.parametrize("tag", paper_tags(ROOT / "papers"))
def test_a_claim_without_value_has_no_verdict(tag):
    for claim in load_claims(tag, ROOT / "papers").claims:
        if claim.evidence == "not-found":
            assert claim.value is None and claim.judge.phantom is None and claim.judge.real is None, claim.id
