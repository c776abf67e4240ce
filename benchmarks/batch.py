"""A batch of five notebooks by `cxr figures`, by bare papermill in one process, and by a shell loop; and a batch with nothing to do.

    python -m benchmarks.batch

Beside it, what `cxr status` takes on our own list of experiments, and a look at a made-up root with as many films as NIH's.

The notebooks load torch and torchvision, as nearly all of ours do, and compute for half a second. One core each way, so
that what is compared is what a notebook costs, not how many run at once; two cores stand beside it. Wall seconds: run it
alone on a machine. Prints one JSON line; the exit status is 1 if a limit is broken.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cxr_companion.report.pipeline import Request, data_state
from tests.conftest import CXR, ROOT
from tests.stubs import NEEDS, RUN, make_stubs

LIMITS = {"no_op_s": 3.0, "node_over_bare_papermill_s": 1.0, "status_own_list_s": 3.0}
FILMS = 112_120  # of NIH ChestX-ray14 (Wang 2017)
LOAD = "import torch, torchvision\n"
BARE = """
import sys
import papermill
for pair in sys.argv[2:]:
    source, out = pair.split("=")
    papermill.execute_notebook(source, out, {"out": sys.argv[1]}, progress_bar=False)
"""


def _seconds(call: list[str], home: Path) -> float:
    started = time.monotonic()
    subprocess.run(call, cwd=home, env={**os.environ, "CXR_HOME": str(home)}, check=True, capture_output=True)
    return time.monotonic() - started


def _pairs(home: Path) -> list[tuple[str, str]]:
    found = sorted((home / "nbs/papers/stub2000").glob("*.ipynb"))
    return [(str(path), str(home / "out" / path.name)) for path in found]


def _fresh(folder: str, name: str) -> Path:
    home = make_stubs(Path(folder) / name, LOAD)
    for inner in ("out/results/stub2000", "out/weights"):
        (home / inner).mkdir(parents=True)
    return home


def _large_root(folder: str) -> Path:
    root = Path(folder) / "nih"
    for part in range(12):
        (root / f"images_{part + 1:03d}/images").mkdir(parents=True)
    for k in range(FILMS):
        (root / f"images_{k % 12 + 1:03d}/images/{k:08d}_000.png").touch()
    (root / "Data_Entry_2017_v2020.csv").write_text("Image Index,Finding Labels\n" + "00000001_000.png,Edema\n" * FILMS)
    return root


def _look(root: Path) -> float:
    started = time.monotonic()
    data_state(Request(data="cxr8", root=str(root)))  # once a look, for all experiments
    return time.monotonic() - started


def main() -> int:
    n, tool = len(NEEDS), str(Path(sys.executable).with_name("papermill"))
    with tempfile.TemporaryDirectory() as folder:
        home = _fresh(folder, "loop")
        lines = [f"{tool} {source} {out} -p out {home}/out --no-progress-bar" for source, out in _pairs(home)]
        loop = _seconds(["bash", "-ec", "\n".join(lines)], home)
        home = _fresh(folder, "bare")
        bare = _seconds([sys.executable, "-c", BARE, f"{home}/out", *map("=".join, _pairs(home))], home)
        home = _fresh(folder, "one")
        one = _seconds([*CXR, *RUN, "--cores", "1"], home)
        no_op = min(_seconds([*CXR, *RUN], home) for _ in range(3))
        two = _seconds([*CXR, *RUN, "--cores", "2"], _fresh(folder, "two"))
        own = min(_seconds([*CXR, "status"], ROOT) for _ in range(3))
        large = _look(_large_root(folder))
    row = dict(
        notebooks=n, shell_loop_s=loop, bare_papermill_s=bare, cxr_one_core_s=one, cxr_two_cores_s=two, no_op_s=no_op
    )
    row |= dict(status_own_list_s=own, look_at_large_root_s=large)
    row |= dict(
        node_over_bare_papermill_s=(one - bare) / n, over_shell_loop=one / loop, two_cores_over_shell_loop=two / loop
    )
    row = {name: round(value, 3) for name, value in row.items()}
    broken = [name for name, limit in LIMITS.items() if row[name] > limit]
    print(json.dumps(dict(what="a batch of notebooks", **row, limits=LIMITS, broken=broken)))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
