"""StarGAN v2 in processes of its own: two of them learn what one does, and a killed one goes on bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cxr_companion.core.checkpoints import load_checkpoint
from cxr_companion.core.training import read_log

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import sys
from dataclasses import replace
import numpy as np
import torch
from cxr_companion.core.device import joined_group
from cxr_companion.stargan.domains import DomainFilms
from cxr_companion.stargan.losses import LossWeights
from cxr_companion.stargan.networks import StarganConfig
from cxr_companion.stargan.step import StepConfig
from cxr_companion.stargan.training import StarganTraining, fit_stargan

torch.set_num_threads(1)
rng, y = np.random.default_rng(0), np.arange(40) % 2
levels = (rng.normal(100, 20, (40, 32, 32)) + 50 * y[:, None, None]).clip(0, 255).astype(np.uint8)
net = StarganConfig(size=32, domains=2, style=6, latent=4, hidden=12, first_width=8, max_width=12, bottlenecks=1)
step = StepConfig(LossWeights(wrong=1.0), warmup=1)
config = StarganTraining(network=net, step=step, steps=int(sys.argv[2]), batch_size=4, rate=1e-3, shift=1, save_every=3, device="cpu")
with joined_group():
    fit_stargan(DomainFilms(levels, y, ("dark", "bright")), config, sys.argv[1])
"""


@pytest.fixture
def script(tmp_path):
    """A script that trains a tiny model for so many steps, in a folder."""
    path = tmp_path / "fit.py"
    path.write_text(SCRIPT)
    return path


def environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


def run_of(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


def test_two_processes_learn_what_one_does(script, tmp_path):
    commands = {
        "one": [sys.executable, str(script)],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
    }
    for name, command in commands.items():
        subprocess.run([*command, str(tmp_path / name), "4"], env=environment(), check=True, timeout=300)
    logs = [read_log(run_of(tmp_path / name))[-1] for name in commands]
    assert logs[0].keys() == logs[1].keys() and len(logs[0]) > 10
    apart = {k: abs(logs[0][k] - logs[1][k]) for k in logs[0] if k != "seconds"}
    assert max(apart.values()) < 1e-5, apart


def test_a_killed_training_goes_on_bit_for_bit(script, tmp_path):
    """The process is killed with SIGKILL once it has a checkpoint; then it is started again."""
    steps = "12"
    killed = subprocess.Popen([sys.executable, str(script), str(tmp_path / "killed"), steps], env=environment())
    until = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("*/last.safetensors")) and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    stopped = load_checkpoint(run_of(tmp_path / "killed") / "last.safetensors")["step"]
    assert 0 < stopped < int(steps), "it must be killed on its way"
    for name in ("killed", "straight"):
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / name), steps], env=environment(), check=True, timeout=300
        )
    trees = [load_checkpoint(run_of(tmp_path / name) / "last.safetensors") for name in ("killed", "straight")]
    for part in ("modules", "ema"):
        for name, weights in trees[0][part].items():
            assert all(torch.equal(value, trees[1][part][name][key]) for key, value in weights.items()), name
    moments = [[s for o in tree["optimisers"].values() for s in o["state"].values()] for tree in trees]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(*moments, strict=True) for k in a)
