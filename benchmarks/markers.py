"""Marker detection and inpainting in films a second, and Grad-CAM against pytorch-grad-cam.

    python -m benchmarks.markers            # 512 px, two threads, the small networks of demo and evening, and the published ones

Weights are random: what a pass costs doesn't depend on them. Detection is `detect` on films at hand, suppression included; inpainting
is `inpaint`, one box a film, in the window that the network learned from (the published network, too: whole films cost it many times
that). Grad-CAM is asked of ResNet-50 at 224 px, one film at a time, as both libraries do; both maps are stretched to [0, 1] before
they are compared. (Of DenseNet the maps differ: its last ReLU works in place, so the library weighs rectified features by the gradient
before the ReLU; ours takes both after it.) Times are the least of several, wall time. pytorch-grad-cam is in requirements-bench.txt; where it isn't installed
its row is left out by name. Prints one JSON line; the exit status is 1 if a limit is broken.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from cxr_companion.classify.saliency import grad_cam
from cxr_companion.markers.detection import detect
from cxr_companion.markers.detector import DETECTOR_PRESETS, build_detector
from cxr_companion.markers.inpaint_networks import INPAINT_PRESETS, build_inpainter
from cxr_companion.markers.inpaint_training import Inpainter
from cxr_companion.markers.inpainting import inpaint
from cxr_companion.markers.training import Detector
from cxr_companion.networks.backbones import backbone, cam_layer

LIMITS = {
    "detection": 5.0,
    "inpainting": 2.0,
    "grad_cam": 0.40,
    "maps_apart": 1e-5,
}  # films/s, films/s, ratio, of [0, 1]


def least_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least wall time of several runs, after one that doesn't count."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def detection_rate(preset: str, films: np.ndarray, repeats: int) -> float:
    """Films a second in which marks are looked for."""
    config = replace(DETECTOR_PRESETS[preset], weights=None)
    model = Detector(build_detector(config).eval().requires_grad_(False))
    return len(films) / least_seconds(lambda: detect(model, films), repeats)


def inpainting_rate(preset: str, films: np.ndarray, window: int, repeats: int) -> float:
    """Films a second in which one marker's box is filled."""
    network = INPAINT_PRESETS[preset]
    model = Inpainter(build_inpainter(network)["generator"].eval().requires_grad_(False), network, window)
    boxes = np.array([[430, 40, 462, 84]])
    return len(films) / least_seconds(lambda: [inpaint(model, film, boxes) for film in films], repeats)


def stretched(cam: np.ndarray) -> np.ndarray:
    """Bring a map to [0, 1]."""
    return (cam - cam.min()) / max(np.ptp(cam), 1e-12)


def cam_against_library(side: int, repeats: int) -> dict[str, float]:
    """Our Grad-CAM's time over pytorch-grad-cam's, and the largest difference of the maps."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    model = backbone("resnet50", 8, 1).eval()
    film = np.random.default_rng(0).uniform(-1, 1, (side, side)).astype(np.float32)
    x, layer = torch.from_numpy(film)[None, None], cam_layer(model)
    target = next(k for k in range(8) if np.ptp(grad_cam(model, film, k, layer)) > 0)  # a map of zeros compares nothing
    with GradCAM(model=model, target_layers=[layer]) as library:

        def theirs() -> np.ndarray:
            return library(x, [ClassifierOutputTarget(target)])[0]

        apart = np.abs(stretched(theirs()) - stretched(grad_cam(model, film, target, layer))).max()
        seconds = {"theirs": least_seconds(theirs, repeats)}
    seconds["ours"] = least_seconds(lambda: grad_cam(model, film, target, layer), repeats)
    return {"grad_cam": seconds["ours"] / seconds["theirs"], "maps_apart": float(apart)}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=16, help="films of 512 px")
    parser.add_argument("--repeats", type=int, default=3, help="runs that count")
    parser.add_argument("--window", type=int, default=128, help="side that is filled, px")
    args = parser.parse_args()
    films = np.random.default_rng(0).uniform(-1, 1, (args.films, 512, 512)).astype(np.float32)
    measured = {"detection": detection_rate("demo", films, args.repeats)}
    measured["inpainting"] = inpainting_rate("demo", films, args.window, args.repeats)
    measured["detection, published network"] = detection_rate("paper", films, 1)
    measured["inpainting, published network"] = inpainting_rate("paper", films, args.window, 1)
    if importlib.util.find_spec("pytorch_grad_cam"):
        measured |= cam_against_library(224, 3 * args.repeats)
    else:
        print("Grad-CAM left out: pytorch-grad-cam isn't installed (requirements-bench.txt)", file=sys.stderr)
    fast = {"detection", "inpainting"}
    broken = [k for k, v in LIMITS.items() if k in measured and (measured[k] < v if k in fast else measured[k] > v)]
    print(json.dumps(dict(threads=torch.get_num_threads(), limits=LIMITS, broken=broken, **measured)))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
