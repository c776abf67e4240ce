"""DeLong's covariance and the bootstrap against plain loops: time, memory, exactness.

    python -m benchmarks.statistics

Each time is a ratio within this run: our processor time over the loop's, measured in turn, median of several rounds.
Prints one JSON line; the exit status is 1 if a limit is broken.
"""

import json
import os
import statistics
import subprocess
import sys
from functools import partial

import numpy as np
from scipy.stats import rankdata

from benchmarks.measures import peak_mib, seconds
from cxr_companion.stats.bootstrap import bootstrap_auroc, bootstrap_weights, weighted_auroc
from cxr_companion.stats.roc import delong_covariance

N_CASES, N_RESAMPLES = 100_000, 2_000
LIMITS = {
    "delong_2_models": 0.10,
    "delong_20_models": 0.05,
    "bootstrap_1000_cases": 0.15,
    "memory_4n_to_n": 4.2,
    "bootstrap_peak_mib": 1024,
    "delong_relative_error": 1e-12,
    "bootstrap_error": 1e-12,
}
_PEAK = """
import resource, sys
import numpy as np
from cxr_companion.stats.bootstrap import bootstrap_auroc, bootstrap_weights
rng, n, resamples = np.random.default_rng(0), int(sys.argv[1]), int(sys.argv[2])
y = rng.random(n) < 0.3
bootstrap_auroc(y, rng.normal(size=n) + y, rng, n_resamples=resamples)
bootstrap_weights(n, resamples, rng)
divisor = 1024 if sys.platform != "darwin" else 1024 * 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor)
"""


def made_up(n: int, models: int, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Make labels (n,) and scores (models, n) that correlate; rounded ones have ties."""
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.3).astype(int)
    scores = rng.normal(size=n) + 1.2 * y + 0.7 * rng.normal(size=(models, n))
    return y, scores if decimals is None else np.round(scores, decimals)


def midranks(values: np.ndarray) -> np.ndarray:
    """Rank with a loop over runs of equal values, as Sun and Xu's algorithm is usually written down."""
    order, n, i = np.argsort(values), len(values), 0
    ranked, ranks = values[order], np.zeros(len(values))
    while i < n:
        j = i
        while j < n and ranked[j] == ranked[i]:
            j += 1
        ranks[i:j] = 0.5 * (i + j - 1)
        i = j
    by_case = np.empty(n)
    by_case[order] = ranks + 1
    return by_case


def midrank_loop(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs and covariance by Sun and Xu's midranks, three sorts a model."""
    scores, m = scores[:, np.argsort(-y, kind="stable")], int(y.sum())
    n = y.size - m
    tx, ty, tz = (np.stack([midranks(r) for r in part]) for part in (scores[:, :m], scores[:, m:], scores))
    v01, v10 = (tz[:, :m] - tx) / n, 1 - (tz[:, m:] - ty) / m
    return tz[:, :m].sum(1) / m / n - (m + 1) / 2 / n, np.cov(v01) / m + np.cov(v10) / n


def by_definition(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs and covariance from all pairs of a positive and a negative case."""
    x, z = scores[:, y == 1, None], scores[:, None, y == 0]
    psi = (x > z) + 0.5 * (x == z)
    v10, v01 = psi.mean(2), psi.mean(1)
    return psi.mean((1, 2)), np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]


def rank_loop(y: np.ndarray, score: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Bootstrap AUROCs, one resample after the other, each ranked anew."""
    values = np.empty(resamples)
    for k in range(resamples):
        drawn = rng.integers(0, y.size, y.size)
        ranks, sick = rankdata(score[drawn]), y[drawn] == 1
        m = sick.sum()
        values[k] = (ranks[sick].sum() - m * (m + 1) / 2) / (m * (y.size - m))
    return values


def ratio(ours, theirs, rounds: int) -> float:
    """Time of ours over theirs, in turn, median of the rounds; one call of ours beforehand, untimed."""
    ours()
    return statistics.median(seconds(ours) / seconds(theirs) for _ in range(rounds))


def speed() -> dict:
    found = {}
    for models, rounds in ((2, 7), (20, 5)):
        read = made_up(N_CASES, models)
        found[f"delong_{models}_models"] = ratio(
            partial(delong_covariance, *read), partial(midrank_loop, *read), rounds
        )
    y, (score,) = made_up(1000, 1)
    rng = np.random.default_rng(1)
    found["bootstrap_1000_cases"] = ratio(
        lambda: bootstrap_auroc(y, score, rng, stratify=False, n_resamples=N_RESAMPLES),
        lambda: rank_loop(y, score, rng, N_RESAMPLES),
        7,
    )
    return found


def memory() -> dict:
    peaks = []
    for n in (N_CASES, 4 * N_CASES):
        y, scores = made_up(n, 5)
        peaks.append(peak_mib(partial(delong_covariance, y, scores)))
    command = [sys.executable, "-c", _PEAK, str(N_CASES), str(N_RESAMPLES)]  # its own process: its peak is its own
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return {
        "delong_peak_mib_n": peaks[0],
        "delong_peak_mib_4n": peaks[1],
        "memory_4n_to_n": peaks[1] / peaks[0],
        "bootstrap_peak_mib": float(done.stdout),
    }


def exactness() -> dict:
    worst = 0.0
    for decimals in (None, 1, 0):
        y, scores = made_up(3000, 3, decimals)
        for ours, plain in zip(delong_covariance(y, scores), by_definition(y, scores), strict=True):
            worst = max(worst, float(np.max(np.abs(ours / plain - 1))))
    y, (score,) = made_up(1000, 1, 1)
    weights = bootstrap_weights(y.size, 200, np.random.default_rng(2))
    plain = [by_definition(np.repeat(y, w), np.repeat(score, w)[None])[0][0] for w in weights]
    return {
        "delong_relative_error": worst,
        "bootstrap_error": float(np.max(np.abs(weighted_auroc(y, score, weights) - plain))),
    }


def main() -> int:
    found = speed() | memory() | exactness()
    shown = {name: float(f"{value:.3g}") for name, value in found.items()}
    print(json.dumps({"benchmark": "statistics", **shown, "limits": LIMITS}))
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
