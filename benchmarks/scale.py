"""What preset `paper` costs, counted, and how cost grows with films, pixels and workers, measured here. Writes docs/scale.md.

    python -m benchmarks.scale              # about twenty minutes on 2 cores
    python -m benchmarks.scale --quick      # a tenth of the films, nothing is written

Multiply-adds of an update are counted by PyTorch's own formulas on tensors without values, so they don't depend on the machine; times
the updates of preset `paper` they are the arithmetic of a training. Hours follow from a speed: this machine's is measured on the same
networks at a side that it can train; a GPU's is its maker's peak in bf16 times a share that is *assumed*. Cost of films is measured in
processes that may use one core or two: simulating, writing, reading and decoding; then updates of a PGGAN at three sides.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import pggan, stargan
from benchmarks.updates import Counter
from cxr_companion.core.files import write_text
from cxr_companion.core.paths import root
from cxr_companion.data import load
from cxr_companion.data.decoding import decode
from cxr_companion.markers.detector import build_detector
from cxr_companion.markers.inpaint_networks import build_inpainter, pasted
from cxr_companion.markers.inpaint_training import inpaint_settings
from cxr_companion.markers.training import detector_settings
from cxr_companion.networks.backbones import backbone
from cxr_companion.pggan.networks import PgganConfig
from cxr_companion.pggan.training import training_settings
from cxr_companion.phantom.cohort import CohortSpec
from cxr_companion.phantom.cxr8_layout import PHANTOM
from cxr_companion.phantom.export import write_layout
from cxr_companion.report.claims import load_claims
from cxr_companion.stargan.training import training_settings as stargan_settings

PEAK = {"V100 (fp16)": 125e12, "A100 (bf16)": 312e12, "H100 (bf16)": 989e12}  # operations a second, dense, by the maker
SHARE = 0.3  # of the peak that a training of convolutions reaches; assumed
FILMS, SIDES, WORKERS = (1000, 4000, 16000), (64, 128, 256), (1, 2)


def counted(work: Callable[[], object]) -> int:
    """Multiply-adds of what is made and done inside, without computing."""
    with FakeTensorMode(), Counter() as counter:
        work()
    return counter.total


def forward_and_back(net: torch.nn.Module, *inputs: torch.Tensor) -> None:
    """Pass inputs through a network and a gradient back to its weights."""
    said = net(*inputs)
    flat = said if isinstance(said, tuple | list) else [said]
    sum(part.sum() for part in flat if torch.is_tensor(part)).backward()


def pggan_plan() -> tuple[int, int, int]:
    """Updates, multiply-adds and films shown of the published growth; fading in is left out of the count."""
    config = training_settings("paper")
    growth, total, shown = config.growth, 0, 0
    for side, steps, n in zip(growth.sides, growth.stage_steps, growth.batch, strict=True):
        network = replace(config.network, size=side)
        total += steps * pggan.multiply_adds(network, n)["ours"]
        shown += steps * n
    return sum(growth.stage_steps), total, shown


def inpainter_update(n: int, side: int) -> None:
    """The passes of one update: generator, discriminator on both, and the way back."""
    nets, x, mask = (
        build_inpainter(inpaint_settings("paper").network),
        torch.zeros(n, 1, side, side),
        torch.ones(n, 1, side, side),
    )
    filled = pasted(x, nets["generator"](x, mask)[1], mask)
    forward_and_back(nets["judge"], torch.cat([x, filled.detach()]), torch.cat([mask, mask]))
    nets["judge"](filled, mask).sum().backward()


def paper_rows() -> list[dict]:
    """Each long training of preset `paper`: updates, multiply-adds, films shown, side."""
    asked = {tag: load_claims(tag).experiments for tag in ("myong2023", "segal2021", "kim2022")}
    rows, star = [], stargan_settings("corrected")

    def of(tag: str, topic: str) -> dict:
        return asked[tag][topic]["paper"]

    n, steps = star.batch_size, of("myong2023", "train_stargan")["steps"]
    rows.append(
        dict(
            what="myong2023: StarGAN v2",
            side=star.network.size,
            updates=steps,
            films=steps * n,
            adds=steps * stargan.multiply_adds(star.network, n)["ours"],
        )
    )
    updates, adds, shown = pggan_plan()
    rows.append(dict(what="segal2021: PGGAN", side=PgganConfig().size, updates=updates, films=shown, adds=adds))
    choice = of("segal2021", "classifiers")
    name = choice["network"]
    adds = counted(lambda: forward_and_back(backbone(name, 14, 1), torch.zeros(32, 1, choice["size"], choice["size"])))
    rows.append(
        dict(
            what=f"segal2021: {choice['network']}, one of two",
            side=choice["size"],
            updates=choice["steps"],
            films=32 * choice["steps"],
            adds=choice["steps"] * adds,
        )
    )
    choice, config = of("kim2022", "train_detector"), detector_settings("paper")
    n, side, steps = config.batch_size, choice["size"], choice["steps"]
    adds = counted(
        lambda: forward_and_back(build_detector(replace(config.network, weights=None)), torch.zeros(n, 1, side, side))
    )
    rows.append(dict(what="kim2022: detector", side=side, updates=steps, films=steps * n, adds=steps * adds))
    choice, config = of("kim2022", "train_inpainter"), inpaint_settings("paper")
    n, side, steps = config.batch_size, choice["size"], choice["steps"]
    rows.append(
        dict(
            what="kim2022: inpainter",
            side=side,
            updates=steps,
            films=steps * n,
            adds=steps * counted(lambda: inpainter_update(n, side)),
        )
    )
    return rows


def films_here(films: int, side: int, workers: int) -> dict[str, float]:
    """Simulate, write, read and decode films in this process and its workers, on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    with tempfile.TemporaryDirectory() as folder:
        spec, started = CohortSpec(seed=1, n_films=films, size=side), time.perf_counter()
        cohort = load("phantom", write_layout(PHANTOM, spec, Path(folder) / "films", processes=workers))
        written = time.perf_counter()
        decode(cohort, side, folder=Path(folder) / "cache")
        stored = sum(file.stat().st_size for file in (Path(folder) / "films").rglob("*.png"))
        return dict(simulated=written - started, decoded=time.perf_counter() - written, megabytes=stored / 1e6)


def update_here(side: int, workers: int) -> dict[str, float]:
    """Time updates of a PGGAN at half the published widths, eight films, in fp32, on so many threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    torch.set_num_threads(workers)
    config = PgganConfig(side, max_width=256, width_times_side=32 * 256)
    adds = pggan.multiply_adds(config, 8)["ours"]
    return dict(seconds=pggan.measure("ours", config, 8, 2)["seconds"], adds=adds)


def apart(*words: object) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--here", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured_rows(quick: bool) -> tuple[list[dict], list[dict]]:
    """Cost of films by number, side and workers; cost of an update by side and workers."""
    scale = 10 if quick else 1
    asked = [(n, SIDES[0], w) for n in FILMS for w in WORKERS] + [(FILMS[0], s, w) for s in SIDES[1:] for w in WORKERS]
    films = [dict(films=n // scale, side=s, workers=w, **apart("films", n // scale, s, w)) for n, s, w in asked]
    updates = [
        dict(side=s, workers=w, **apart("update", s, w)) for s in (SIDES[:1] if quick else SIDES) for w in WORKERS
    ]
    return films, updates


def table(rows: list[dict], columns: dict[str, Callable[[dict], str]]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows)])


def page(paper: list[dict], films: list[dict], updates: list[dict]) -> str:
    """Put everything on the page docs/scale.md."""
    best = max(row["adds"] / row["seconds"] for row in updates)  # multiply-adds a second here
    hours = {name: lambda r, peak=peak: f"{2 * r['adds'] / (peak * SHARE) / 3600:,.1f}" for name, peak in PEAK.items()}
    cost = {
        "training": lambda r: r["what"], "side, px": lambda r: str(r["side"]), "updates": lambda r: f"{r['updates']:,}",
        "films shown": lambda r: f"{r['films']:,}", "10^15 multiply-adds": lambda r: f"{r['adds'] / 1e15:,.0f}",
        "decoded levels read, GB": lambda r: f"{r['films'] * r['side'] ** 2 / 1e9:,.0f}",
    }  # fmt: skip
    cost |= {f"hours, {name}": show for name, show in hours.items()} | {
        "days, here": lambda r: f"{r['adds'] / best / 86400:,.0f}"
    }
    curve = {
        "films": lambda r: f"{r['films']:,}", "side, px": lambda r: str(r["side"]), "workers": lambda r: str(r["workers"]),
        "simulated and written, s": lambda r: f"{r['simulated']:.1f}", "ms a film": lambda r: f"{1000 * r['simulated'] / r['films']:.1f}",
        "read and decoded, s": lambda r: f"{r['decoded']:.1f}", "on disk, MB": lambda r: f"{r['megabytes']:,.0f}",
    }  # fmt: skip
    update = {
        "side, px": lambda r: str(r["side"]), "threads": lambda r: str(r["workers"]), "s an update": lambda r: f"{r['seconds']:.2f}",
        "10^9 multiply-adds": lambda r: f"{r['adds'] / 1e9:,.0f}", "10^9 a second": lambda r: f"{r['adds'] / r['seconds'] / 1e9:,.0f}",
    }  # fmt: skip
    return TEMPLATE.format(
        share=SHARE, peaks=", ".join(f"{n} {p / 1e12:,.0f}" for n, p in PEAK.items()), best=f"{best / 1e9:,.0f}",
        cost=table(paper, cost), curve=table(films, curve), update=table(updates, update),
    )  # fmt: skip


TEMPLATE = """# What it costs

Written by `python -m benchmarks.scale`; nobody edits it. Nothing here was measured on a GPU.

## Preset `paper`, counted

Multiply-adds are counted on tensors without values and multiplied by the updates of preset `paper`. A GPU's hours are these, at two operations each, over its maker's peak (10^12 operations a second: {peaks}) times {share:g}, a share that is **assumed**; small sides reach less. "Days, here" takes the fastest update measured below, {best} x 10^9 multiply-adds a second in fp32. What a training reads are decoded levels, one byte a pixel, from memory or the page cache; the first reading of the films comes once.

{cost}

## Films, measured

A SIMULATED cohort: drawn, written as PNG in NIH's layout, loaded, decoded into the cache.

{curve}

## An update, measured

PGGAN at half the published widths, eight films, fp32.

{update}
"""


def main() -> int:
    """Count, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the films, one side, nothing written")
    parser.add_argument(
        "--here", nargs="+", help="one measurement in this process: films N SIDE WORKERS, update SIDE WORKERS"
    )
    asked = parser.parse_args()
    if asked.here:
        kind, *numbers = asked.here
        print(json.dumps({"films": films_here, "update": update_here}[kind](*map(int, numbers))))
        return 0
    paper, (films, updates) = paper_rows(), measured_rows(asked.quick)
    text = page(paper, films, updates)
    print(text)
    if not asked.quick:
        write_text(root() / "docs/scale.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
