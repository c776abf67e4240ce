"""Settings that can't work, given to a paper's notebook: one sentence that names them, before anything trains."""

import shutil

import pytest

from cxr_companion.core.kernels import kernel_nursery
from cxr_companion.report.execute import NotebookFailed, run_notebook
from cxr_companion.report.figures import find_notebook

GENERATOR, STEERING, JUDGE = (
    "pggan/generator.safetensors",
    "classifiers/steering.safetensors",
    "classifiers/judge.safetensors",
)


def run(topic: str, out, **parameters):
    """Execute a notebook of segal2021 at smoke size, with what is changed."""
    return run_notebook(find_notebook("segal2021", topic), out / f"{topic}.ipynb", dict(out=str(out), **parameters))


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A run in which generator and classifiers have been trained."""
    out = tmp_path_factory.mktemp("ready")
    with kernel_nursery() as settings, pytest.MonkeyPatch.context() as patch:
        [patch.setenv(name, value) for name, value in settings.items()]
        [run(topic, out) for topic in ("train_pggan", "classifiers")]
        yield out


@pytest.mark.parametrize(
    "topic, settings, words",
    (
        ("train_pggan", dict(size=48, settings={"network": {"size": 48}}), "48"),
        ("train_pggan", dict(settings={"growth": {"images": [48, 48], "batch": [8, 8], "fade": 24}, "network": {"size": 32}}), "32 px"),
        ("train_pggan", dict(settings={"growth": {"images": [48, 48, 48, 96], "batch": [8, 8, 8, 8], "fade": 64}, "network": {"size": 32}}), "doesn't fit"),
        ("train_pggan", dict(settings={"growth": {"pictures": 3}}), "pictures"),
        ("latent_class_optimisation", dict(wishes=[{"No Finding": 1, "Effusion": 1}]), "No Finding"),
        ("latent_class_optimisation", dict(wishes=[{"Fracture": 1}]), "no finding 'Fracture'"),
        ("latent_class_optimisation", dict(wishes=[{"Effusion": 2}]), "got 2"),
    ),
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_trains(ready, tmp_path, topic, settings, words):
    for name in ("pggan", "classifiers"):
        shutil.copytree(ready / name, tmp_path / name)
    with pytest.raises(NotebookFailed, match=words) as error:
        run(topic, tmp_path, **settings)
    print(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "archive").exists()


@pytest.mark.parametrize(
    "file, other, words",
    (
        (GENERATOR, STEERING, "holds no PGGAN generator"),
        (STEERING, GENERATOR, "not a classifier"),
        (JUDGE, STEERING, "no part in it"),
        (GENERATOR, None, "generator.safetensors"),
    ),
    ids=("a classifier as generator", "a generator as classifier", "one classifier twice", "no generator"),
)
def test_a_file_of_another_kind_is_named(ready, tmp_path, file, other, words):
    for name in ("pggan", "classifiers"):
        shutil.copytree(ready / name, tmp_path / name)
    (tmp_path / file).unlink()
    if other:
        shutil.copy(ready / other, tmp_path / file)
    with pytest.raises(NotebookFailed, match=words) as error:
        run("latent_class_optimisation", tmp_path)
    print(error.value)
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "archive").exists()


def test_classifiers_of_other_films_are_refused(ready, tmp_path):
    """Steering and judge look at films of 64 px, the generator makes 32."""
    shutil.copytree(ready / "pggan", tmp_path / "pggan")
    run("classifiers", tmp_path, size=64)
    with pytest.raises(NotebookFailed, match="64") as error:
        run("latent_class_optimisation", tmp_path)
    print(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_finding_that_was_not_learned_is_left_out_and_named(ready, tmp_path):
    """As on a small copy of a real set, where some finding has too few films: the other wishes are met."""
    shutil.copytree(ready / "pggan", tmp_path / "pggan")
    run("classifiers", tmp_path, findings=["Effusion"])
    asked = dict(own_settings={}, n=2, draws=20)
    made = run("latent_class_optimisation", tmp_path, wishes=[{"Cardiomegaly": 1}, {"Effusion": 1}], **asked)
    assert "left out, for the classifiers had too few films to learn it: {'Cardiomegaly': 1}" in made.read_text()
    assert (tmp_path / "archive/GENERATED.json").is_file()
    with pytest.raises(NotebookFailed, match="the classifiers learned Effusion, and no wish asks for these alone"):
        run("latent_class_optimisation", tmp_path, wishes=[{"Cardiomegaly": 1}], **asked)
