"""The same work on a GPU as on the processor; what needs a GPU is skipped by name where there is none."""

import json

import numpy as np
import pytest
import torch

from cxr_companion.classify.classifier import ClassifierConfig
from cxr_companion.classify.tasks import findings_task
from cxr_companion.classify.training import start_training, update_classifier
from cxr_companion.core.training import read_log
from cxr_companion.data.datasets import Batches, Films
from cxr_companion.markers.inpaint_training import MarkedFilms, fit_inpainter, inpaint_folder, inpaint_settings
from cxr_companion.report.runs import fresh_checkout
from tests.conftest import cxr

GPU = pytest.mark.gpu


def films(n: int, seed: int) -> Films:
    """Noise, brighter in the middle where the label is 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n)[:, None] % 2
    levels = rng.integers(0, 180, (n, 32, 32))
    levels[:, 8:24, 8:24] += 60 * labels[:, :, None]
    return Films(levels.astype(np.uint8), labels.astype(float))


def settings(device: str, steps: int) -> ClassifierConfig:
    return ClassifierConfig(steps=steps, batch_size=8, look_every=2, device=device, precision="fp32")


def after_one_step(device: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Terms and weights of the first update."""
    data, task, config = films(16, 0), findings_task(["finding"]), settings(device, 4)
    state, weights, where, precision = start_training(config, task, data.labels.numpy(), True)
    for part in state.modules["classifier"].modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # each device has a chance of its own
    batch = tuple(part.to(where) for part in Batches(data, 8, 0)(0))
    terms = update_classifier(state, batch, 0, config, task, weights, precision)
    return terms, {name: value.cpu() for name, value in state.modules["classifier"].state_dict().items()}


@pytest.mark.parametrize("device", ("cpu", pytest.param("cuda", marks=GPU)))
def test_one_step_is_the_processors(device):
    (want, weights), (got, there) = after_one_step("cpu"), after_one_step(device)
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-4)
    for name, value in weights.items():
        assert torch.allclose(there[name].float(), value.float(), rtol=1e-2, atol=1e-3), name


def inpainter(device: str, steps: int, folder) -> tuple[int, list[dict]]:
    """Train a tiny inpainter up to a step; its step and its log."""
    levels = np.asarray(films(12, 0).levels)
    data = MarkedFilms(levels, [np.zeros((0, 4))] * len(levels))
    network = dict(width=4, dilations=(2,), judge_width=4, judge_layers=2)
    config = inpaint_settings(
        "demo", network=network, window=16, batch_size=4, steps=steps, save_every=2, device=device, precision="fp32"
    )
    model = fit_inpainter(data, config, folder)
    return model.step, read_log(inpaint_folder(data, config, folder))


@pytest.mark.parametrize(
    "first, then", (("cpu", "cpu"), pytest.param("cpu", "cuda", marks=GPU), pytest.param("cuda", "cpu", marks=GPU))
)
def test_a_checkpoint_goes_on_elsewhere(tmp_path, first, then):
    """Half a training on one device, the rest on another: what an undisturbed training on the processor logs."""
    inpainter(first, 4, tmp_path / "moved")
    step, log = inpainter(then, 8, tmp_path / "moved")
    _, want = inpainter("cpu", 8, tmp_path / "straight")
    assert step == 8 and [row["step"] for row in log] == [row["step"] for row in want] == list(range(1, 9))
    assert log[-1]["hole"] == pytest.approx(want[-1]["hole"], rel=0.02)


@GPU
def test_a_notebook_runs_on_the_gpu(tmp_path):
    home = fresh_checkout(tmp_path)
    done = cxr(home, "figures", "--paper", "kim2022", "--preset", "smoke", "--topic", "train_inpainter")
    assert done.returncode == 0, done.stdout + done.stderr
    made = home / "build/runs/phantom-smoke/notebooks/kim2022/train_inpainter.ipynb"
    cells = json.loads(made.read_text())["cells"]
    assert "on cuda" in "".join(str(output.get("text")) for cell in cells for output in cell.get("outputs", []))
