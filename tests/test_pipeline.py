"""The pipeline at smoke size, as a reader runs it: the command line, in a copy of the checkout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cxr_companion.core.files import sha256_file
from cxr_companion.report.pipeline import Request, end_orphans, listed
from cxr_companion.report.runs import fresh_checkout
from tests.conftest import CXR, ROOT, cxr

SMOKE = [
    "figures",
    "--paper",
    "myong2023",
    "--preset",
    "smoke",
    "--cores",
    "1",
]  # one core a test process: pytest runs two


def hashes(home: Path) -> dict[str, str]:
    folder = home / "build/runs/phantom-smoke"
    return {
        str(p.relative_to(folder)): sha256_file(p)
        for kind in ("figures", "results")
        for p in sorted((folder / kind / "myong2023").rglob("*.*"))
    }


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """One smoke run in a copy of the checkout, shared by the tests below, which may run it again."""
    home = tmp_path_factory.mktemp("checkout")
    fresh_checkout(home)
    for name in ("figures", "results"):
        shutil.copytree(ROOT / name, home / name, dirs_exist_ok=True)
    return home, cxr(home, *SMOKE)


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch, smoke):
    yield
    monkeypatch.setenv("CXR_HOME", str(smoke[0]))
    assert end_orphans() == 0, "a run left processes behind"


def test_one_command_makes_everything(smoke, monkeypatch):
    home, done = smoke
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("CXR_HOME", str(home))
    for experiment in listed(Request("myong2023", "smoke")):
        for file in map(Path, experiment.outputs):
            assert file.stat().st_size > 0, file
            if file.suffix == ".png":
                with Image.open(file) as picture:
                    assert min(picture.size) > 400
            if file.suffix == ".json" and "figures" in file.parts:
                record = json.loads(file.read_text())
                assert record["simulated"] or record["data"] == "published counts"
                assert "SIMULATED" in record["caption"] or not record["simulated"]
        cells = json.loads(experiment.executed.read_text())["cells"]
        assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    page = (home / "build/report/index.html").read_text()
    assert "SIMULATED" in page and "cohort_films" in page


def test_smoke_leaves_the_committed_figures_alone(smoke):
    home, _ = smoke
    for kind in ("figures", "results"):
        ours = {p.relative_to(ROOT / kind): sha256_file(p) for p in (ROOT / kind).rglob("*.*") if p.name != "soak.json"}
        theirs = {
            p.relative_to(home / kind): sha256_file(p) for p in (home / kind).rglob("*.*") if p.name != "soak.json"
        }
        assert ours == theirs


def test_the_second_run_reruns_nothing(smoke):
    home, _ = smoke
    proofs = {p: p.stat().st_mtime_ns for p in (home / "build/runs/phantom-smoke/state").rglob("*.json")}
    used = os.times().children_user
    done = cxr(home, *SMOKE)
    assert done.returncode == 0 and "Nothing is stale" in done.stdout
    assert os.times().children_user - used < 8, "processor seconds: less than two notebooks take to start"
    assert proofs and {p: p.stat().st_mtime_ns for p in proofs} == proofs


def test_a_changed_cell_reruns_its_notebook_alone(smoke):
    home, _ = smoke
    notebook = home / "nbs/papers/myong2023/65_type_one_error.ipynb"  # nobody needs its results
    before, made = notebook.read_text(), hashes(home)
    content = json.loads(before)
    content["cells"][-1]["source"].append("\nprint('one more line')")
    notebook.write_text(json.dumps(content))
    assert "stale  myong2023/type_one_error: notebook changed" in cxr(home, "status", "--preset", "smoke").stdout
    proof = home / "build/runs/phantom-smoke/state/myong2023/classifier_baseline.json"
    untouched = proof.stat().st_mtime_ns
    done = cxr(home, *SMOKE)
    words = f"1 of {len(listed(Request('myong2023', 'smoke')))} experiments to run"
    assert done.returncode == 0 and words in done.stdout, done.stdout + done.stderr
    assert proof.stat().st_mtime_ns == untouched
    notebook.write_text(before)
    assert cxr(home, *SMOKE).returncode == 0
    assert hashes(home) == made, "the same notebook made something else"


def test_kill_and_rerun(smoke):
    """SIGKILL in the middle; the next run ends what is left over, finishes, and makes the same files (`make soak` kills at every stage, trainings too)."""
    home, _ = smoke
    made, folder, topics = hashes(home), home / "build/runs/phantom-smoke", ("--topic", "cohort")
    for file in (folder / "state/myong2023/cohort.json", folder / "results/myong2023/cohort.csv"):
        file.unlink()
    environment = {**os.environ, "CXR_HOME": str(home)}
    run = subprocess.Popen(
        [*CXR, *SMOKE, *topics], cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in run.stdout:
        if "myong2023/cohort: started" in line:
            break
    time.sleep(2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = cxr(home, *SMOKE, *topics)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hashes(home) == made


def test_another_run_takes_over_a_training(smoke):
    """A parameter that has nothing to do with training makes another run, but no other training."""
    home, _ = smoke
    trained = home / "build/trainings/checkpoints/classifier_baseline"
    before = {log: log.read_text() for log in trained.glob("*/log.jsonl")}
    done = cxr(home, *SMOKE, "--topic", "classifier_baseline", "--set", "lite0_size=128")
    assert done.returncode == 0, done.stdout + done.stderr
    assert before and {log: log.read_text() for log in trained.glob("*/log.jsonl")} == before


def test_a_second_run_waits_for_the_first(smoke):
    """A run that outlived its terminal, say: the next one waits for it, and then there is nothing left to do."""
    home, _ = smoke
    code = "import sys; from cxr_companion.report.pipeline import only_run\nwith only_run():\n    print('held', flush=True); sys.stdin.read(1)"
    settings = dict(env={**os.environ, "CXR_HOME": str(home)}, stdout=subprocess.PIPE, text=True)
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, **settings)
    assert holder.stdout.readline().strip() == "held"
    cleaned = cxr(home, "clean", "--yes")
    assert cleaned.returncode == 2 and f"another run is at work in {home} (process {holder.pid})" in cleaned.stderr
    second = subprocess.Popen([*CXR, *SMOKE], cwd=home, **settings)
    assert "waiting for it" in second.stdout.readline()
    assert second.poll() is None
    holder.communicate("x")
    assert "Nothing is stale" in second.communicate()[0] and second.returncode == 0


def test_a_file_system_that_takes_no_more(smoke):
    """No file may grow beyond 20 kB, as on a full disk: one sentence, no half file; afterwards the run goes on."""
    home, _ = smoke
    made = hashes(home)
    proof = home / "build/runs/phantom-smoke/state/myong2023/cohort.json"
    proof.unlink()
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *CXR, *SMOKE, "--topic", "cohort"],
        cwd=home, env={**os.environ, "CXR_HOME": str(home)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "File too large" in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not proof.exists()
    again = cxr(home, *SMOKE, "--topic", "cohort")
    assert again.returncode == 0, again.stdout + again.stderr
    assert hashes(home) == made
