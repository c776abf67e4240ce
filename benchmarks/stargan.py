"""StarGAN v2's iteration: ours against the plain one, in multiply-adds, time and memory; and translation against training.

    python -m benchmarks.stargan              # published widths, 128 px, 4 films, two iterations each
    python -m benchmarks.stargan --size 256 --batch 8

The plain iteration is what the paper states, written down directly: the same networks, batch and losses, every part with its own
passes. Multiply-adds are counted at 256 px with 8 films, without computing anything (tensors without values): they don't depend on
the machine. Time is the least of several iterations (wall time, and processor time, which other programs disturb less), memory the
growth of the process while iterating. Each variant runs in a process of its own. Prints one JSON line; the exit status is 1 if a
limit is broken. Time and memory in bf16 are judged where the processor has bf16 instructions. With AVX-512 instructions alone, without
matrix units (AMX), bf16 can't be more than twice as fast as fp32, so the time limit is missed there.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.updates import Counter, measured, plain_descend
from cxr_companion.core.device import cpu_has_bf16, place
from cxr_companion.core.training import TrainState
from cxr_companion.stargan.domains import StarganBatch
from cxr_companion.stargan.losses import LossWeights, ds_weight
from cxr_companion.stargan.networks import StarganConfig, build_networks
from cxr_companion.stargan.step import discriminator_step, generator_step, translate_batch

LIMITS = {"multiply_adds": 0.88, "bf16_time": 0.35, "bf16_memory": 0.65, "translation_to_training": 3.0}
GUIDES = ("latent", "reference")


def plain_iteration(state: TrainState, batch: StarganBatch, step: int, weights: LossWeights) -> None:
    """Do one iteration as the paper states it: four updates, each with its own forward passes; all gradients are taken."""
    g, f, e, d = (state.modules[name] for name in ("generator", "mapping", "style_encoder", "discriminator"))
    for guide in GUIDES:

        def style(z, x_ref, guide=guide):
            return f(z, batch.y_trg) if guide == "latent" else e(x_ref, batch.y_trg)

        with torch.no_grad():
            x_fake = g(batch.x_src, style(batch.z, batch.x_ref))
        x = batch.x_src.clone().requires_grad_()
        real = d(x, batch.y_src)
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        loss = F.softplus(-real).mean() + F.softplus(d(x_fake, batch.y_trg)).mean()
        plain_descend(state, loss + weights.r1 * 0.5 * slope.square().flatten(1).sum(1).mean(), "discriminator")
        s = style(batch.z, batch.x_ref)
        x_fake = g(batch.x_src, s)
        with torch.no_grad():  # the published code takes the second translation as a constant too
            x_fake2 = g(batch.x_src, style(batch.z2, batch.x_ref2))
        x_back = g(x_fake, e(batch.x_src, batch.y_src))
        loss = F.softplus(-d(x_fake, batch.y_trg)).mean() + weights.cycle * (x_back - batch.x_src).abs().mean()
        loss = loss + weights.style * (e(x_fake, batch.y_trg) - s.detach()).abs().mean()
        loss = loss - ds_weight(step, weights) * (x_fake - x_fake2).abs().mean()
        plain_descend(state, loss, "generator", "style_encoder", *(("mapping",) * (guide == "latent")))


def our_iteration(
    state: TrainState, batch: StarganBatch, step: int, weights: LossWeights, precision: str = "fp32"
) -> None:
    """Do one iteration of ours, as `update_stargan` does, without reading any term."""
    for guide in GUIDES:
        made = translate_batch(state.modules, batch, guide, precision)
        discriminator_step(state, batch.x_src, batch.y_src, made.seen, batch.y_trg, weights, step, precision)
        generator_step(state, batch, made, guide, weights, step, precision)


def make_state(config: StarganConfig, precision: str) -> TrainState:
    """Build the four networks with Adam, its moments in place."""
    nets = build_networks(config)
    if precision == "bf16":
        nets = {name: place(net, torch.device("cpu"), precision) for name, net in nets.items()}
    state = TrainState(nets, {name: torch.optim.Adam(net.parameters(), 1e-4) for name, net in nets.items()})
    for name, net in nets.items():
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        state.optimisers[name].step()
        state.optimisers[name].zero_grad(set_to_none=True)
    return state


def make_batch(config: StarganConfig, n: int) -> StarganBatch:
    """Make up a batch."""
    films = [torch.rand(n, config.channels, config.size, config.size) * 2 - 1 for _ in range(3)]
    y = torch.arange(n) % config.domains
    z = [torch.randn(n, config.latent) for _ in range(2)]
    return StarganBatch(films[0], y, y.flip(0), films[1], films[2], *z)


def multiply_adds(config: StarganConfig, n: int) -> dict[str, int]:
    """Count one iteration of each kind, without computing."""
    counts = {}
    for name, iteration in (("plain", plain_iteration), ("ours", our_iteration)):
        with FakeTensorMode():
            state, batch = make_state(config, "fp32"), make_batch(config, n)
            with Counter() as counter:
                iteration(state, batch, 0, LossWeights())
        counts[name] = counter.total
    return counts


def measure(kind: str, size: int, n: int, times: int) -> dict[str, float]:
    """Run one variant here: least seconds an iteration, and by how many MB the process grew meanwhile."""
    torch.manual_seed(0)
    precision = "bf16" if kind.endswith("bf16") else "fp32"
    config, weights = StarganConfig(size=size, first_width=min(64, 16384 // size)), LossWeights()
    state, batch = make_state(config, precision), make_batch(config, n)

    def work(step: int) -> None:
        if kind == "translate":
            with torch.no_grad():
                s = state.modules["mapping"](batch.z, batch.y_trg)
                state.modules["generator"](batch.x_src, s)
        elif kind == "plain":
            plain_iteration(state, batch, step, weights)
        else:
            our_iteration(state, batch, step, weights, precision)

    return measured(work, times)


def in_process(kind: str, size: int, n: int, times: int) -> dict[str, float]:
    """Measure one variant in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stargan", "--measure", kind]
    command += ["--size", str(size), "--batch", str(n), "--times", str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of a film in px for time and memory")
    parser.add_argument("--batch", type=int, default=4, help="films a batch for time and memory")
    parser.add_argument("--times", type=int, default=2, help="iterations, of which the fastest counts")
    parser.add_argument("--measure", choices=("plain", "ours", "ours-bf16", "translate"), help="one variant, here")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure, asked.size, asked.batch, asked.times)))
        return 0
    counts = multiply_adds(StarganConfig(), 8)
    runs = {k: in_process(k, asked.size, asked.batch, asked.times) for k in ("plain", "ours", "ours-bf16", "translate")}
    found = {
        "multiply_adds": round(counts["ours"] / counts["plain"], 4),
        "fp32_time": round(runs["ours"]["seconds"] / runs["plain"]["seconds"], 3),
        "fp32_memory": round(runs["ours"]["megabytes"] / runs["plain"]["megabytes"], 3),
        "bf16_time": round(runs["ours-bf16"]["seconds"] / runs["plain"]["seconds"], 3),
        "fp32_processor_time": round(runs["ours"]["processor_seconds"] / runs["plain"]["processor_seconds"], 3),
        "bf16_processor_time": round(runs["ours-bf16"]["processor_seconds"] / runs["plain"]["processor_seconds"], 3),
        "bf16_memory": round(runs["ours-bf16"]["megabytes"] / runs["plain"]["megabytes"], 3),
        "translation_to_training": round(runs["ours"]["seconds"] / runs["translate"]["seconds"], 1),
    }
    units = "amx" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "avx512" if cpu_has_bf16() else "none"
    facts = {"size": asked.size, "batch": asked.batch, "threads": torch.get_num_threads(), "bf16_units": units}
    facts |= {"giga_multiply_adds": {name: round(count / 1e9, 2) for name, count in counts.items()}}
    print(json.dumps({"benchmark": "stargan", **facts, **found, "runs": runs, "limits": LIMITS}))
    checked = ["multiply_adds", *(["bf16_memory", "bf16_time"] if units != "none" else [])]
    too_slow = found["translation_to_training"] < LIMITS["translation_to_training"]
    return int(too_slow or any(found[name] > LIMITS[name] for name in checked))


if __name__ == "__main__":
    sys.exit(main())
