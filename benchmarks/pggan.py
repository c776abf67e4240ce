"""PGGAN's update: ours against the plain one, in multiply-adds, time and memory; and sampling against training.

    python -m benchmarks.pggan              # 64 px at half the published widths, 8 films, three updates each
    python -m benchmarks.pggan --side 128 --max-width 128 --batch 4

The plain update is what the paper states, written down directly: the same networks, batch and losses; films are made once for the
discriminator and once more for the generator, features are doubled and then convolved, LeakyReLU and pixel norm are steps of their
own, all gradients are taken. Multiply-adds are counted at 1024 px with the published networks and 12 films, without computing
anything (tensors without values): they don't depend on the machine. Time is the least of several updates (wall time, and processor
time, which other programs disturb less), memory the growth of the process while updating. Each variant runs in a process of its own.
Prints one JSON line; the exit status is 1 if a limit is broken. Time in bf16 is judged where the processor has bf16 instructions.
With AVX-512 instructions alone, without matrix units (AMX), bf16 can't be more than twice as fast as fp32, so its limit is missed there.
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
from cxr_companion.core.device import autocast, cpu_has_bf16, place
from cxr_companion.core.training import TrainState, update_average
from cxr_companion.pggan.layers import pixel_norm
from cxr_companion.pggan.losses import LossWeights
from cxr_companion.pggan.networks import Generator, PgganConfig, build_networks
from cxr_companion.pggan.step import discriminator_step, generator_step

LIMITS = {"multiply_adds": 0.85, "fp32_time": 0.85, "bf16_time": 0.35}
WEIGHTS, DECAY = LossWeights(), 0.999


def plain_films(g: Generator, z: torch.Tensor) -> torch.Tensor:
    """Make films as the paper's table says: double, convolve, LeakyReLU, norm, each a step of its own."""

    def normed(h: torch.Tensor) -> torch.Tensor:
        return pixel_norm(F.leaky_relu(h, 0.2))

    h = normed(g.conv(normed(g.first(pixel_norm(z)[:, :, None, None]))))
    for enlarge, refine in zip(g.enlarge, g.refine, strict=True):
        h = F.interpolate(h, scale_factor=2, mode="nearest")
        h = normed(F.conv2d(h, enlarge.weight * enlarge.scale, enlarge.bias, padding=1))
        h = normed(refine(h))
    return g.to_film[-1](h)


def plain_update(state: TrainState, x: torch.Tensor, z: torch.Tensor, share: torch.Tensor) -> None:
    """Do one update as the paper states it: each part with its own passes; all gradients are taken."""
    g, d = state.modules["generator"], state.modules["discriminator"]
    with torch.no_grad():
        x_fake = plain_films(g, z)
    between = torch.lerp(x, x_fake, share[:, None, None, None]).requires_grad_()
    real, fake, numbers = d(x), d(x_fake), d(between)
    (slope,) = torch.autograd.grad(numbers.sum(), between, create_graph=True)
    penalty = (slope.square().flatten(1).sum(1).sqrt() - 1).square().mean()
    loss = fake.mean() - real.mean() + WEIGHTS.penalty * penalty + WEIGHTS.drift * real.square().mean()
    plain_descend(state, loss, "discriminator")
    plain_descend(state, -d(plain_films(g, z)).mean(), "generator")
    update_average(state.ema["generator"], g, DECAY)


def our_update(state: TrainState, x: torch.Tensor, z: torch.Tensor, share: torch.Tensor, precision: str) -> None:
    """Do one update of ours, as `update_pggan` does, without reading any term."""
    with autocast(x.device, precision):
        x_fake = state.modules["generator"](z)
    discriminator_step(state, x, x_fake, share, 1.0, WEIGHTS, 0, precision)
    generator_step(state, x_fake, 1.0, WEIGHTS, precision)
    update_average(state.ema["generator"], state.modules["generator"], DECAY)


def make_state(config: PgganConfig, precision: str) -> TrainState:
    """Build both networks with Adam, its moments in place, and the average."""
    nets, average = build_networks(config), build_networks(config)["generator"].requires_grad_(False)
    if precision == "bf16":
        nets = {name: place(net, torch.device("cpu"), precision) for name, net in nets.items()}
    optimisers = {n: torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.99), fused=True) for n, net in nets.items()}
    for name, net in nets.items():
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimisers[name].step()
        optimisers[name].zero_grad(set_to_none=True)
    return TrainState(nets, optimisers, ema={"generator": average})


def make_batch(config: PgganConfig, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make up films, codes and shares."""
    x = torch.rand(n, config.channels, config.size, config.size) * 2 - 1
    return x, torch.randn(n, config.latent), torch.rand(n)


def multiply_adds(config: PgganConfig, n: int) -> dict[str, int]:
    """Count one update of each kind, without computing."""
    counts = {}
    for name in ("plain", "ours"):
        with FakeTensorMode():
            state, batch = make_state(config, "fp32"), make_batch(config, n)
            with Counter() as counter:
                plain_update(state, *batch) if name == "plain" else our_update(state, *batch, "fp32")
        counts[name] = counter.total
    return counts


def measure(kind: str, config: PgganConfig, n: int, times: int) -> dict[str, float]:
    """Run one variant here: least seconds an update, and by how many MB the process grew meanwhile."""
    torch.manual_seed(0)
    precision = "bf16" if kind.endswith("bf16") else "fp32"
    state, batch = make_state(config, precision), make_batch(config, n)

    def work(step: int) -> None:
        if kind == "sample":
            with torch.no_grad():
                state.ema["generator"](batch[1])
        elif kind == "plain":
            plain_update(state, *batch)
        else:
            our_update(state, *batch, precision)

    return measured(work, times)


def in_process(kind: str, asked: argparse.Namespace) -> dict[str, float]:
    """Measure one variant in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pggan", "--measure", kind, "--side", str(asked.side)]
    command += ["--max-width", str(asked.max_width), "--batch", str(asked.batch), "--times", str(asked.times)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="side of a film in px for time and memory")
    parser.add_argument("--max-width", type=int, default=256, help="most channels for time and memory; 512: published")
    parser.add_argument("--batch", type=int, default=8, help="films a batch for time and memory")
    parser.add_argument("--times", type=int, default=3, help="updates, of which the fastest counts")
    parser.add_argument("--measure", choices=("plain", "ours", "ours-bf16", "sample"), help="one variant, here")
    asked = parser.parse_args()
    config = PgganConfig(asked.side, max_width=asked.max_width, width_times_side=32 * asked.max_width)
    if asked.measure:
        print(json.dumps(measure(asked.measure, config, asked.batch, asked.times)))
        return 0
    counts = multiply_adds(PgganConfig(), 12)
    runs = {kind: in_process(kind, asked) for kind in ("plain", "ours", "ours-bf16", "sample")}
    found = {"multiply_adds": round(counts["ours"] / counts["plain"], 4)}
    for name, kind in (("fp32", "ours"), ("bf16", "ours-bf16")):
        for what, key in (("time", "seconds"), ("processor_time", "processor_seconds"), ("memory", "megabytes")):
            found[f"{name}_{what}"] = round(runs[kind][key] / runs["plain"][key], 3)
    found["sampling_to_training"] = round(runs["ours"]["seconds"] / runs["sample"]["seconds"], 1)
    units = "amx" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "avx512" if cpu_has_bf16() else "none"
    facts = {"side": asked.side, "max_width": asked.max_width, "batch": asked.batch, "bf16_units": units}
    facts |= {
        "threads": torch.get_num_threads(),
        "giga_multiply_adds": {k: round(v / 1e9, 1) for k, v in counts.items()},
    }
    print(json.dumps({"benchmark": "pggan", **facts, **found, "runs": runs, "limits": LIMITS}))
    checked = ["multiply_adds", "fp32_time", *(["bf16_time"] if units != "none" else [])]
    return int(any(found[name] > LIMITS[name] for name in checked))


if __name__ == "__main__":
    sys.exit(main())
