"""Decoding films: scaled against whole, two processes against one, and an epoch from the cache.

    python -m benchmarks.decoding

All films are made up in a temporary folder. Each comparison is a ratio within this run. Prints one JSON line; the exit status is 1
if a limit is broken.
"""

import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_companion.core.images import read_image, resize
from cxr_companion.core.processes import usable_cores
from cxr_companion.data.decoding import _decode_chunk
from cxr_companion.data.films import read_film

LIMITS = {"scaled_to_whole": 0.6, "share_of_linear_speed": 0.9, "epoch_seconds": 2.0}


def smooth_film(height: int, width: int, seed: int) -> np.ndarray:
    """Make levels with structure at all sizes, as films have it: smoothed noise of several widths."""
    rng, levels = np.random.default_rng(seed), np.zeros((height, width))
    for k in (4, 16, 64, 256):
        small = Image.fromarray(rng.normal(0, k**0.5, (height // k + 2, width // k + 2)).astype(np.float32))
        levels += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(128 + 4 * levels, 0, 255).astype(np.uint8)


def best(work, times: int = 3) -> float:
    """Give the least seconds of several runs."""
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent)


def scaled_to_whole(folder: Path) -> float:
    """Seconds for a 3056 x 2544 JPEG to 256 px: decoded small, over decoded whole."""
    path = folder / "large.jpg"
    Image.fromarray(smooth_film(3056, 2544, 0)).save(path, quality=95)
    return best(lambda: read_film(path, 256), 7) / best(lambda: resize(read_image(path), 256), 7)


def share_of_linear_speed(folder: Path, films: int = 640, size: int = 256) -> tuple[float, int]:
    """Speed of all cores over one core's, a core; worker processes are started before the clock."""
    paths = []
    for i in range(16):
        path = folder / f"{i}.png"
        Image.fromarray(smooth_film(1024, 1024, i)).save(path)
        paths.append(str(path))
    jobs = [([paths[(i + j) % 16] for j in range(32)], size, "pad") for i in range(0, films, 32)]
    cores = usable_cores()
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(cores, context) as many:
        for pool, n in ((one, 1), (many, cores)):
            list(pool.map(_decode_chunk, [(paths[:2], size, "pad")] * 4 * n))
        alone = best(lambda: list(one.map(_decode_chunk, jobs)), 2)
        together = best(lambda: list(many.map(_decode_chunk, jobs)), 2)
    return alone / together / cores, cores


def epoch_seconds(folder: Path, films: int = 10_000, size: int = 128) -> float:
    """Seconds to draw every film of a memory-mapped cache once, in batches of 64, as tensors."""
    from cxr_companion.data.datasets import Batches, Films

    np.save(folder / "cache.npy", np.random.default_rng(0).integers(0, 256, (films, size, size), dtype=np.uint8))
    levels = np.load(folder / "cache.npy", mmap_mode="r")
    batches = Batches(Films(levels, np.zeros((films, 1))), 64)
    return best(lambda: [batches(step) for step in range(films // 64)])


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        share, cores = share_of_linear_speed(folder)
        found = {
            "scaled_to_whole": round(scaled_to_whole(folder), 2),
            "share_of_linear_speed": round(share, 2),
            "epoch_seconds": round(epoch_seconds(folder), 2),
        }
    print(json.dumps({"benchmark": "decoding", "cores": cores, **found, "limits": LIMITS}))
    too_much = [found[name] > LIMITS[name] for name in ("scaled_to_whole", "epoch_seconds")]
    return int(any(too_much) or found["share_of_linear_speed"] < LIMITS["share_of_linear_speed"])


if __name__ == "__main__":
    sys.exit(main())
