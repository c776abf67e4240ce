"""Five notebooks without torch under the real rules, a run of which is killed, interrupted or left without room."""

import json
import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import psutil

from cxr_companion.core.files import sha256_file
from tests.conftest import CXR, ROOT

NEEDS = {"a": "", "b": "", "c": "a b", "d": "c", "e": "a"}
PARAMETERS = 'out: str = ""\npreset: str = "smoke"\nseed: int = 0'
WORK = """
import time
from pathlib import Path
from cxr_companion.core.files import write_text
from cxr_companion.report.results import COLUMNS
read = [p.read_text() for p in sorted((Path(out) / "results/stub2000").glob("*.csv")) if p.stem in NEEDED]
for k in range(4):
    time.sleep(0.1)
    print("TOPIC", k)
row = f"n,,,,,{seed + len(read)},,,computed,1,{seed},smoke,phantom,none"
write_text(Path(out) / "results/stub2000/TOPIC.csv", ",".join(COLUMNS) + f"\\n{row}\\n")
for k in range(3):
    time.sleep(0.1)
    write_text(Path(out) / f"weights/TOPIC-{k}.txt", f"TOPIC {k} {seed}\\n" * 8000)
"""
HEAD = """
from cxr_companion.report.pipeline import Request
request, made = Request.read(config), {}
for topic, needs in NEEDS.items():
    made[topic] = request.experiment("stub2000", topic, files=[f"weights/{topic}-{k}.txt" for k in range(3)], needs=[made[n] for n in needs.split()])
experiments = list(made.values())
chosen = request.chosen(experiments)
"""
RUN = ("figures", "--paper", "stub2000", "--preset", "smoke")


def _notebook(*cells: str) -> str:
    made = [
        dict(cell_type="code", id=f"c{k}", execution_count=None, outputs=[], source=text, metadata={})
        for k, text in enumerate(cells)
    ]
    made[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    return json.dumps(dict(cells=made, metadata=kernel, nbformat=4, nbformat_minor=5))


def make_stubs(home: Path, first: str = "") -> Path:
    """Write a checkout with five small notebooks, and the project's own rules, into an empty folder; `first` is run first."""
    (home / "nbs/papers/stub2000").mkdir(parents=True)
    (home / "papers").mkdir()
    for k, (topic, needs) in enumerate(NEEDS.items()):
        cell = first + WORK.replace("TOPIC", topic).replace("NEEDED", repr(needs.split()))
        (home / f"nbs/papers/stub2000/{k + 1}0_{topic}.ipynb").write_text(_notebook(PARAMETERS, cell))
    presets = "".join(f"  {topic}: {{smoke: {{}}, demo: {{}}, evening: {{}}, paper: {{}}}}\n" for topic in NEEDS)
    about = "tag: stub2000\nsubject: made up\ncitation: {year: 2000}\nrelated: {}\n"
    (home / "papers/stub2000.yaml").write_text(f"{about}experiments:\n{presets}claims: []\n")
    rules = re.search(r"\nrule all:.*", (ROOT / "Snakefile").read_text(), re.DOTALL)[0]
    (home / "Snakefile").write_text(HEAD.replace("NEEDS", repr(NEEDS)) + rules)
    (home / "settings.ini").write_text("lib_name = cxr_companion\n")
    (home / "README.md").write_text("# stubs\n")
    return home


def start(home: Path, *words: str, call: tuple[str, ...] = RUN, **settings) -> subprocess.Popen:
    """Start a run, of all five unless another is asked for, which hears SIGINT and gives it to nobody but its own."""
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background inherit that it is ignored
    own = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) | settings
    place = dict(cwd=home, env={**os.environ, "CXR_HOME": str(home)}, preexec_fn=heard)
    return subprocess.Popen([*CXR, *call, *words], **place, **own)


def made(home: Path) -> dict[str, str]:
    """Hashes of all files that the notebooks made."""
    run = home / "build/runs/phantom-smoke"
    files = [p for kind in ("weights", "results") for p in sorted((run / kind).rglob("*.*"))]
    return {str(p.relative_to(run)): sha256_file(p) for p in files}


def half_written(home: Path) -> list[str]:
    """Files that a proof of success names, but that aren't as it says."""
    run = home / "build/runs/phantom-smoke"
    proofs = [json.loads(p.read_text())["files"] for p in (run / "state").rglob("*.json")]
    return [f for files in proofs for f, h in files.items() if not (run / f).is_file() or sha256_file(run / f) != h]


def workers(run: subprocess.Popen) -> dict[str, list[psutil.Process]]:
    """Processes at work for a run: the runner, its jobs (papermill), the kernels."""
    found = {"runner": [psutil.Process(run.pid)], "job": [], "kernel": []}
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            words, parent = " ".join(process.cmdline()), " ".join(process.parent().cmdline())
        except (psutil.Error, AttributeError):
            continue
        if "serve_kernels" in words and "serve_kernels" in parent:
            found["kernel"].append(process)
        elif " experiment stub2000 " in words and not words.startswith(("/bin/sh", "/bin/bash", "bash")):
            found["job"].append(process)
    return found


def family(run: subprocess.Popen) -> list[psutil.Process]:
    """All processes that work for a run."""
    return psutil.Process(run.pid).children(recursive=True)


def alive(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Processes that are still there after so many seconds."""
    ends = time.monotonic() + seconds
    left = processes
    while left and time.monotonic() < ends:
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    return left
