"""`make soak`: what takes longer than tests may. Writes results/soak.json: what, how many, failures, seconds."""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from cxr_companion.core.checkpoints import load_checkpoint, save_checkpoint
from cxr_companion.core.files import sha256_file, write_json
from cxr_companion.core.images import read_image, to_uint8
from cxr_companion.core.paths import results_dir, root
from cxr_companion.core.seeds import stream
from cxr_companion.data.cxr8 import load_cxr8
from cxr_companion.phantom.cohort import FINDINGS, CohortSpec
from cxr_companion.phantom.cxr8_layout import LAYOUT
from cxr_companion.phantom.export import render_images, write_layout
from cxr_companion.report.execute import parse_assignment
from cxr_companion.report.runs import fresh_checkout
from tests.conftest import CXR
from tests.soak.batch import Skipped, papers_are_the_same_twice, slurm_runs_two_notebooks, stub_kills_lose_nothing


def damaged(data: bytes, i: int, name: str) -> bytes:
    """Cut, flip, overwrite or lengthen bytes, by a stream of its own for each case."""
    rng, data = stream(0, i, name), bytearray(data)
    for _ in range(rng.integers(1, 6)):
        kind, at = rng.integers(4), int(rng.integers(len(data) or 1))
        if kind == 0:
            del data[at:]
        elif kind == 1 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at : at + 8] = rng.bytes(8)
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(data)


def phantom_is_finite(count: int) -> int:
    """Films of many patients, at every site, with every finding somewhere: finite, in range, not flat."""
    spec = CohortSpec(seed=11, n_films=count, size=32, prevalence=dict.fromkeys(FINDINGS, 0.3))
    images = render_images(spec)
    good = np.isfinite(images).all((1, 2)) & (np.abs(images) <= 1).all((1, 2)) & (images.std((1, 2)) > 0.05)
    for i in np.flatnonzero(~good)[:5]:
        print("phantom: film", i, "min, max, sd:", images[i].min(), images[i].max(), images[i].std())
    return int((~good).sum())


def images_are_read_or_refused(count: int) -> int:
    """Damaged pictures are read or refused with a ValueError that names the file; nothing else."""
    from PIL import Image

    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = {}
        for kind in ("png", "jpg", "gif", "tiff", "bmp"):
            Image.fromarray(to_uint8(stream(1, 0, kind).uniform(-1, 1, (48, 40)))).save(f"{folder}/whole.{kind}")
            whole[kind] = Path(f"{folder}/whole.{kind}").read_bytes()
        for i in range(count):
            kind = list(whole)[i % len(whole)]
            path = Path(folder) / f"case.{kind}"
            path.write_bytes(damaged(whole[kind], i, "image"))
            try:
                image = read_image(path)
                failures += not (image.dtype == np.float32 and image.ndim == 2 and np.isfinite(image).all())
            except ValueError as error:
                failures += str(path) not in str(error)
            except Exception:
                failures += 1
                print("image case", i, kind, traceback.format_exc(limit=2))
    return failures


def checkpoints_are_whole_or_refused(count: int) -> int:
    """Damaged checkpoints load as they were or are refused with a ValueError."""
    import torch

    failures, weights = 0, torch.randn(8, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder) / "a.safetensors", {"net": {"w": weights}, "step": 3, "names": ["a", None]})
        whole = path.read_bytes()
        for i in range(count):
            path.write_bytes(damaged(whole, i, "checkpoint"))
            try:
                tree = load_checkpoint(path)
                failures += not (
                    tree["step"] == 3 and tree["names"] == ["a", None] and torch.equal(tree["net"]["w"], weights)
                )
            except ValueError:
                continue
            except Exception:
                failures += 1
                print("checkpoint case", i, traceback.format_exc(limit=2))
    return failures


def tables_are_loaded_or_refused(count: int) -> int:
    """Damaged tables and box lists of a root load or are refused with a ValueError."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        nih = Path(folder) / "nih"
        write_layout(LAYOUT, CohortSpec(seed=1, n_films=10, size=32), nih, processes=1)
        (nih / "SIMULATED.txt").unlink()
        whole = {name: (nih / name).read_bytes() for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv")}
        for i in range(count):
            name = list(whole)[i % 2]
            (nih / name).write_bytes(damaged(whole[name], i, "table"))
            try:
                load_cxr8(nih)
            except ValueError:
                pass
            except Exception:
                failures += 1
                print("table case", i, name, traceback.format_exc(limit=3))
            (nih / name).write_bytes(whole[name])
    return failures


def assignments_are_parsed_or_refused(count: int) -> int:
    """Random `name=value` words parse or are refused with a ValueError."""
    failures, letters = 0, 'seed=3.5[]{}",:-_ é\n\\'
    for i in range(count):
        rng = random.Random(i)
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(14)))
        try:
            parse_assignment(text)
        except ValueError:
            pass
        except Exception:
            failures += 1
            print("assignment", repr(text), traceback.format_exc(limit=1))
    return failures


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): sha256_file(p)
        for kind in ("figures", "results")
        for p in sorted((folder / kind).rglob("*.*"))
    }


def kills_lose_nothing(count: int) -> int:
    """`kill -9` at random moments of the smoke run, then a rerun: finished, with the same figures and numbers."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fresh_checkout(home)
        environment, call = (
            {**os.environ, "CXR_HOME": str(home)},
            [*CXR, "figures", "--paper", "myong2023", "--preset", "smoke"],
        )
        started = time.monotonic()
        subprocess.run(call, cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)
        whole, seconds = _hashes(home / "build/runs/phantom-smoke"), time.monotonic() - started
        for i in range(count):
            shutil.rmtree(home / "build")
            run = subprocess.Popen(
                call, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            part = (
                i + stream(2, i, "kill").random()
            ) / count  # one moment in each part of the run, none at its very end
            moment = 0.5 + part * (0.9 * seconds - 0.5)
            try:
                run.wait(moment)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
            done = subprocess.run(call, cwd=home, env=environment, capture_output=True, text=True)
            now = _hashes(home / "build/runs/phantom-smoke")
            other = [name for name in sorted(whole | now) if whole.get(name) != now.get(name)]
            good = run.returncode == -signal.SIGKILL and done.returncode == 0 and not other
            failures += not good
            told = (
                "finished, equal results"
                if good
                else f"{done.stdout}{done.stderr}not equal: {', '.join(other) or 'none'}"
            )
            how = "killed" if run.returncode == -signal.SIGKILL else "it had ended, not killed"
            print(f"{how} after {moment:.1f} s: {told}", flush=True)
    return failures


def onnx_files_agree(count: int) -> int:
    """Networks at 80 px written as ONNX files: onnxruntime's logits are PyTorch's, to 1e-4 of the largest."""
    import onnxruntime
    import torch

    from cxr_companion.networks.backbones import backbone, load_weights
    from cxr_companion.networks.onnx_file import export_onnx

    torch.manual_seed(0)
    failures, names = 0, ("shufflenet_eca", "resnet18", "efficientnet_b0", "lite0")
    films = torch.rand(16, 1, 80, 80) * 2 - 1
    films *= torch.rand(16, 1, 1, 1)
    for name in names[:count]:
        model = backbone(name, 3, weights="imagenet") if name == "lite0" else backbone(name, 3)
        if name == "resnet18":  # its stem came from colour weights: film and plane of ones
            load_weights(model, backbone(name, 3, in_channels=3).state_dict())
        if name != "lite0":
            for module in model.modules():  # batch norms that know what they normalise
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            with torch.no_grad():
                model.train()(films)
        with torch.inference_mode():
            want = model.eval()(films)
        with tempfile.TemporaryDirectory() as folder:
            path = export_onnx(model, f"{folder}/net.onnx", 80)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            parts = [session.run(None, {"films": part.numpy()})[0] for part in films.split((1, 5, 10))]
        error = (torch.from_numpy(np.concatenate(parts)) - want).abs().max() / want.abs().max()
        failures += not error <= 1e-4
        print(f"ONNX {name}: {error:.1e} of the largest logit", flush=True)
    return failures


def _marked(mark: str, **settings: str) -> tuple[int, int]:
    """Run the tests of one mark; give back how many ran, those skipped apart, and how many failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        call = [sys.executable, "-m", "pytest", "tests", "-m", mark, "-n", "2", f"--junitxml={report}"]
        subprocess.run(call, cwd=root(), env=os.environ | settings, stdout=subprocess.DEVNULL)
        suite = ElementTree.parse(report).getroot().find("testsuite")
        ran = {key: int(suite.get(key)) for key in ("tests", "skipped", "failures", "errors")}
    return ran["tests"] - ran["skipped"], ran["failures"] + ran["errors"]


def readers_survive_damage(count: int) -> int:
    """Every fuzz test with so many cases each; counts the tests that failed."""
    tests, failures = _marked("fuzz", CXR_FUZZ=str(count))
    print(f"fuzz: {tests} tests with {count} cases each", flush=True)
    return failures + (tests < 10)


def long_tests_pass(count: int) -> int:
    """The tests marked `soak`: those on real films are skipped where CXR_REAL is unset."""
    tests, failures = _marked("soak")
    if not tests:
        raise Skipped("CXR_REAL is unset: no folder of real films here")
    return failures + (tests < count)


SOAK = {  # what -> (how many, check)
    "phantom films finite, in range, not flat": (5000, phantom_is_finite),
    "damaged pictures read or refused by name": (10000, images_are_read_or_refused),
    "damaged checkpoints whole or refused": (5000, checkpoints_are_whole_or_refused),
    "damaged NIH tables loaded or refused": (3000, tables_are_loaded_or_refused),
    "name=value words parsed or refused": (20000, assignments_are_parsed_or_refused),
    "ONNX files give PyTorch's logits to 1e-4": (4, onnx_files_agree),
    "damaged files of six data sets, each fuzz test": (2000, readers_survive_damage),
    "kill -9 of runner, job or kernel of stubs, rerun equal": (20, stub_kills_lose_nothing),
    "kill -9 of a smoke run, rerun equal": (3, kills_lose_nothing),
    "tests marked soak: a baseline on real films": (4, long_tests_pass),
    "all papers at smoke size, twice the same bytes": (1, papers_are_the_same_twice),
    "notebooks as jobs of a one-node Slurm": (2, slurm_runs_two_notebooks),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the checks whose name contains this; writes no soak.json")
    warnings.simplefilter("ignore")  # Pillow warns about each damaged TIFF
    chosen = {name: case for name, case in SOAK.items() if parser.parse_args().only in name}
    rows = []
    for name, (count, check) in chosen.items():
        started = time.monotonic()
        try:
            failures = check(count)
        except Skipped as reason:
            rows.append(dict(what=name, how_many=0, failures=0, seconds=0, skipped=str(reason)))
            print(f"skipped  {name}: {reason}", flush=True)
            continue
        rows.append(dict(what=name, how_many=count, failures=failures, seconds=round(time.monotonic() - started)))
        print(
            f"{'FAILED' if failures else 'ok'}  {name}: {failures} of {count} failed, {rows[-1]['seconds']} s",
            flush=True,
        )
    if chosen == SOAK:
        write_json(results_dir() / "soak.json", rows)
    failed = sum(bool(row["failures"]) for row in rows)
    skipped = sum("skipped" in row for row in rows)
    print(f"{len(rows) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
