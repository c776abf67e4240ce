"""The Frechet distance against SciPy's matrix square root: time, memory, exactness.

    python -m benchmarks.frechet

Times are ratios within this run of processor time; the square root takes half a minute, so it is measured once, ours several times.
Prints one JSON line; the exit status is 1 if a limit is broken.
"""

import json
import statistics
import sys
from functools import partial

import numpy as np
from scipy import linalg

from benchmarks.measures import peak_mib, seconds
from cxr_companion.evaluate.frechet import Moments, frechet_distance, moments
from cxr_companion.evaluate.kernel import kernel_distance
from cxr_companion.evaluate.neighbours import neighbour_scores

D, N_FILMS = 2048, 6000
LIMITS = {
    "frechet_2048": 0.08,
    "frechet_2048_1000_films": 0.08,
    "frechet_relative_error": 1e-6,
    "frechet_singular_relative_error": 1e-6,
    "kernel_peak_mib": 160,
    "neighbours_peak_mib": 160,
}


def made_up(n: int, d: int, seed: int) -> np.ndarray:
    """Make features (n, d) whose spectrum falls over four decades, as a network's does, in axes of its own."""
    rng = np.random.default_rng(seed)
    turn = linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * 10 ** (-2 * np.linspace(0, 1, d))) @ turn + 0.1 * seed


def by_square_root(a: Moments, b: Moments) -> float:
    """Compute the distance as it is usually written down."""
    shift = a.mean - b.mean
    root = np.trace(linalg.sqrtm(a.covariance @ b.covariance)).real
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root)


def by_singular_values(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the distance from centred features, without squaring anything: the root's trace is a nuclear norm."""
    shift, sides = x.mean(0) - y.mean(0), [(z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y)]
    thin = [linalg.qr(z, mode="r")[0][: z.shape[1]] for z in sides]
    root = linalg.svdvals(thin[0] @ thin[1].T).sum()
    return float(shift @ shift + sum((z**2).sum() for z in sides) - 2 * root)


def speed() -> dict:
    a, b = (moments(made_up(N_FILMS, D, seed)) for seed in (0, 1))
    few = [made_up(1000, D, seed) for seed in (2, 3)]
    frechet_distance(a, b)
    ours = statistics.median(seconds(partial(frechet_distance, a, b)) for _ in range(5))
    theirs = seconds(partial(by_square_root, a, b))
    rank_deficient = statistics.median(seconds(partial(frechet_distance, *few)) for _ in range(3))
    return {
        "sqrtm_seconds": theirs,
        "frechet_2048": ours / theirs,
        "frechet_2048_1000_films": rank_deficient / theirs,
    }


def exactness() -> dict:
    x, y = made_up(3000, 512, 0), made_up(2500, 512, 1)
    few = x[:300], y[:200]

    def error(pair: tuple, value: float) -> float:
        return abs(value / by_singular_values(*pair) - 1)

    singular = [error(few, frechet_distance(*few)), error(few, frechet_distance(*map(moments, few)))]
    return {
        "frechet_relative_error": error((x, y), frechet_distance(x, y)),
        "sqrtm_relative_error": error((x, y), by_square_root(moments(x), moments(y))),
        "frechet_singular_relative_error": max(singular),
    }


def memory() -> dict:
    """Ten thousand films a side, few features, so that all pairs (763 MiB) would show."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 10_000, 8))
    return {
        "kernel_peak_mib": peak_mib(partial(kernel_distance, x, y)),
        "neighbours_peak_mib": peak_mib(partial(neighbour_scores, x, y, rng, folds=2)),
    }


def main() -> int:
    found = exactness() | memory() | speed()
    shown = {name: float(f"{value:.3g}") for name, value in found.items()}
    print(json.dumps({"benchmark": "frechet", **shown, "limits": LIMITS}))
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
