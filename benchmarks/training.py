"""Seconds an update of ResNet-18 takes on 224 px films: the project's update against a plain fp32 loop.

    python -m benchmarks.training

The plain loop is fp32, NCHW, cross entropy, AdamW, batches from memory. Ours is `update_classifier` with the precision that this
processor is fast in: bf16 and channels_last where it has bf16 units, fp32 elsewhere; batches are drawn from 8-bit levels. The two
take turns, and the least seconds of each count, so that other work on the machine weighs on both. Augmentation is timed apart, as a
share of an update. Prints one JSON line; the exit status is 1 if a limit is broken.
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from cxr_companion.classify.augmentation import augment
from cxr_companion.classify.classifier import ClassifierConfig
from cxr_companion.classify.tasks import findings_task
from cxr_companion.classify.training import BF16_SHOWN, start_training, update_classifier
from cxr_companion.core.device import cpu_has_bf16
from cxr_companion.core.processes import usable_cores
from cxr_companion.data.datasets import Batches, Films, to_tensor
from cxr_companion.networks.backbones import backbone

SPEEDUP = {"bf16": 1.5, "fp32": 0.95}  # fp32: equal, within what a clock can tell
LIMITS = {"augment_share": 0.15}
ROUNDS, BATCH, SIDE = 6, 16, 224


def films() -> Films:
    """Make up films and labels."""
    rng = np.random.default_rng(0)
    return Films(rng.integers(0, 256, (4 * BATCH, SIDE, SIDE), dtype=np.uint8), rng.integers(0, 2, (4 * BATCH, 1)))


def plain_loop(data: Films):
    """Give a function that does one plain update."""
    model = backbone("resnet18", 1).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02)
    x, y = to_tensor(data.levels[:BATCH]), data.labels[:BATCH]

    def once(step: int) -> None:
        loss = F.binary_cross_entropy_with_logits(model(x), y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return once


def our_loop(data: Films, precision: str):
    """Give a function that does one update of the project, drawing its batch."""
    config = ClassifierConfig("resnet18", steps=1000, batch_size=BATCH, device="cpu", precision=precision)
    task, batches = findings_task(["finding"]), Batches(data, BATCH)
    start = start_training(config, task, data.labels.numpy(), balance=False)
    return lambda step: update_classifier(
        start.state, batches(step), step, config, task, start.weights, start.precision
    )


def seconds(work, step: int) -> float:
    """Time one call."""
    started = time.perf_counter()
    work(step)
    return time.perf_counter() - started


def main() -> int:
    torch.set_num_threads(usable_cores())
    precision, data = "bf16" if cpu_has_bf16() else "fp32", films()
    x, ids = to_tensor(data.levels[:BATCH]), np.arange(BATCH)
    works = {
        "plain": plain_loop(data),
        "ours": our_loop(data, precision),
        "augment": lambda step: augment(x, "strong", ids, 0, step),
    }
    for work in works.values():
        work(0)  # warms up
    turns = [{name: seconds(work, step) for name, work in works.items()} for step in range(1, ROUNDS + 1)]
    spent = {name: min(turn[name] for turn in turns) for name in works}
    found = {
        "precision": precision,
        "note": f'precision="{precision}" was asked for; "auto" takes bf16 only for {", ".join(BF16_SHOWN)}',
        "plain_seconds": round(spent["plain"], 3),
        "our_seconds": round(spent["ours"], 3),
        "speedup": round(spent["plain"] / spent["ours"], 2),
        "augment_share": round(spent["augment"] / spent["ours"], 3),
    }
    limits = {"speedup": SPEEDUP[precision], **LIMITS}
    print(json.dumps({"benchmark": "training", "cores": usable_cores(), **found, "limits": limits}))
    return int(found["speedup"] < limits["speedup"] or found["augment_share"] > limits["augment_share"])


if __name__ == "__main__":
    sys.exit(main())
