"""PGGAN in processes of its own: two of them learn what one does, and a killed one goes on bit for bit."""

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
import numpy as np
import torch
from cxr_companion.core.together import train_together
from cxr_companion.pggan.training import fit_pggan, training_settings

torch.set_num_threads(1)
rng = np.random.default_rng(0)
levels = rng.normal(100, 30, (40, 16, 16)).clip(0, 255).astype(np.uint8)
growth = {"images": [16, 48, 48], "batch": [8, 8, 8], "fade": 40}
changes = dict(network={"max_width": 8, "group": 2}, growth=growth, step={"weights": {"game": "wasserstein"}})
config = training_settings("smoke", **changes, save_every=3, device="cpu")
if __name__ == "__main__":
    train_together(fit_pggan, levels, config, sys.argv[1], processes=int(sys.argv[2]))
"""


def environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


def run_of(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A script that trains a tiny model in a folder, and the run of one process that nobody disturbed."""
    home = tmp_path_factory.mktemp("pggan")
    script = home / "fit.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, str(script), str(home / "one"), "1"], env=environment(), check=True, timeout=300)
    return script, run_of(home / "one")


def test_two_processes_learn_what_one_does(straight, tmp_path):
    script, one = straight
    command = [sys.executable, str(script), str(tmp_path / "two"), "2"]
    subprocess.run(command, env=environment(), check=True, timeout=300)
    logs = [read_log(one), read_log(run_of(tmp_path / "two"))]
    assert [row["images"] for row in logs[0]] == [8.0 * k for k in range(1, 15)]
    for a, b in zip(*logs, strict=True):
        apart = {k: abs(a[k] - b[k]) for k in a.keys() | b.keys() if k != "seconds"}
        assert max(apart.values()) < 1e-3, apart


def test_a_killed_training_goes_on_bit_for_bit(straight, tmp_path):
    """The process is killed with SIGKILL once it has a checkpoint; then it is started again."""
    script, one = straight
    command = [sys.executable, str(script), str(tmp_path / "killed"), "1"]
    killed = subprocess.Popen(command, env=environment())
    until = time.monotonic() + 300
    while not list((tmp_path / "killed").glob("*/last.safetensors")) and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    stopped = load_checkpoint(run_of(tmp_path / "killed") / "last.safetensors")["step"]
    assert 0 < stopped < 14, "it must be killed on its way"
    subprocess.run(command, env=environment(), check=True, timeout=300)
    trees = [load_checkpoint(run / "last.safetensors") for run in (run_of(tmp_path / "killed"), one)]
    for part in ("modules", "ema"):
        for name, weights in trees[0][part].items():
            assert all(torch.equal(value, trees[1][part][name][key]) for key, value in weights.items())
