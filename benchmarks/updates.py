"""What the benchmarks of two-network trainings count and measure with."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cxr_companion.core.training import TrainState


class Counter(TorchDispatchMode):
    """Add up multiply-adds of convolutions and matrix products, by PyTorch's own formulas."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=out) // 2 if formula else 0
        return out


def plain_descend(state: TrainState, loss: torch.Tensor, *names: str) -> None:
    """Take one step of the named optimisers, gradients for everybody, as the papers' code does."""
    for optimiser in state.optimisers.values():
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for name in names:
        state.optimisers[name].step()


def measured(work: Callable[[int], None], times: int) -> dict[str, float]:
    """Do something several times here: least seconds, and by how many MB the process grew meanwhile."""
    before, spent, worked = _resident_mb(), [], []
    for step in range(times):
        started, busy = time.perf_counter(), time.process_time()
        work(step)
        spent.append(time.perf_counter() - started)
        worked.append(time.process_time() - busy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": min(spent), "processor_seconds": min(worked), "megabytes": peak - before}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
