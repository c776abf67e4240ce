"""Is a generator that was trained in bf16 as good as one that was trained in fp32? Several seeds each, on SIMULATED films.

    python -m benchmarks.precision                      # PGGAN to 32 px and StarGAN v2 at 32 px, three seeds each
    python -m benchmarks.precision --model pggan --seeds 5 --size 64 --length 2

Each training sees the same films of the phantom with a seed of its own, once in bf16 and once in fp32. What comes out is measured by
the Frechet distance to films of other simulated patients, on EfficientNet-Lite0's features. The ratio of the two precisions is
estimated on the logarithm, with seeds as the units and a t interval over pairs of one seed. bf16 counts as shown when the whole
interval lies below 1.25, our margin. Prints one JSON line a model; the exit status is 1 if one isn't shown. Processes run side by side,
one thread each; times are in `benchmarks.stargan` and `benchmarks.pggan`.
"""

import argparse
import importlib
import json
import math
import sys
from functools import partial

import numpy as np
import torch
from scipy.stats import t as student

from cxr_companion.core.images import to_float
from cxr_companion.core.processes import in_order, usable_cores
from cxr_companion.data.parts import labelled_parts
from cxr_companion.evaluate.features import film_features
from cxr_companion.evaluate.frechet import frechet_distance
from cxr_companion.pggan.sampling import sample
from cxr_companion.pggan.training import fit_pggan
from cxr_companion.pggan.training import training_settings as pggan_settings
from cxr_companion.report.sources import open_cohort
from cxr_companion.stargan.domains import domain_parts
from cxr_companion.stargan.training import fit_stargan
from cxr_companion.stargan.training import training_settings as stargan_settings
from cxr_companion.stargan.translation import translate

MARGIN, DOMAINS = 1.25, ("No Finding", "Consolidation", "Effusion", "Cardiomegaly")
PREVALENCE = {name.lower(): 0.3 for name in DOMAINS[1:]}


def cohort(model: str, size: int, length: float):
    """Open the simulated films that all trainings of a model share."""
    common = dict(n_films=int(1600 * length), size=size, seed=77, films_per_patient=1.0)
    return open_cohort("phantom", **common, **({"prevalence": PREVALENCE} if model == "stargan" else {}))


def pggan_films(size: int, length: float, precision: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Train a PGGAN; give its films and true ones of other patients."""
    parts = labelled_parts(cohort("pggan", size, length), size)
    config = pggan_settings("demo", size=size, precision=precision, seed=seed)
    model = fit_pggan(parts["train"].films.levels, config)
    true = np.concatenate([parts[name].films.levels for name in ("judge", "test")])
    return sample(model, len(true), seed), to_float(true, 255)


def stargan_films(size: int, length: float, precision: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Train a StarGAN v2; give translations of normal films and true films of the target domains, of other patients."""
    parts = domain_parts(cohort("stargan", size, length), DOMAINS, size)
    network, step = dict(size=size, judge_side=64), dict(warmup=100, weights=dict(cycle=0.2))
    config = stargan_settings(
        "demo", network=network, step=step, steps=int(500 * length), precision=precision, seed=seed
    )
    model = fit_stargan(parts["train"].films, config)
    both = [parts[name].films for name in ("judge", "test")]
    levels, y = np.concatenate([f.levels for f in both]), np.concatenate([f.y for f in both])
    made = [translate(model, to_float(levels[y == 0], 255), to=name, seed=seed) for name in DOMAINS[1:]]
    return np.concatenate(made), to_float(levels[y > 0], 255)


def distance(model: str, size: int, length: float, job: tuple[str, int]) -> float:
    """Train once and measure."""
    torch.set_num_threads(1)
    made, true = {"pggan": pggan_films, "stargan": stargan_films}[model](size, length, *job)
    return frechet_distance(film_features(made, 96, "cpu"), film_features(true, 96, "cpu"))


def compared(bf16: list[float], fp32: list[float]) -> dict:
    """Estimate the ratio of two precisions over seeds."""
    logs = np.log(bf16) - np.log(fp32)
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    ratio, low, high = (round(math.exp(v), 3) for v in (logs.mean(), logs.mean() - half, logs.mean() + half))
    return {"ratio": ratio, "ci_low": low, "ci_high": high, "shown": high < MARGIN}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("pggan", "stargan", "both"), default="both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--length", type=float, default=1.0)
    asked, shown = parser.parse_args(), True
    train = importlib.import_module("benchmarks.precision").distance  # by a name that another process can import
    for model in ("pggan", "stargan") if asked.model == "both" else (asked.model,):
        cohort(model, asked.size, asked.length)  # rendered once, before the processes ask for it
        jobs = [(precision, seed) for seed in range(asked.seeds) for precision in ("bf16", "fp32")]
        found = list(in_order(partial(train, model, asked.size, asked.length), jobs, usable_cores()))
        by = {p: [round(d, 2) for d, (q, _) in zip(found, jobs, strict=True) if p == q] for p in ("bf16", "fp32")}
        line = {"model": model, "size": asked.size, "frechet": by, **compared(by["bf16"], by["fp32"])}
        print(json.dumps(line | {"data": "SIMULATED films", "margin": MARGIN}), flush=True)
        shown &= line["shown"]
    return 0 if shown else 1


if __name__ == "__main__":
    sys.exit(main())
