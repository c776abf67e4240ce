"""A run that is interrupted, killed in part, without room, or not alone: five notebooks without torch, the real rules."""

import os
import signal
import subprocess

import pytest

from cxr_companion.report.page import notebook_status
from tests.conftest import cxr
from tests.stubs import RUN, alive, family, half_written, made, make_stubs, start, workers


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run makes."""
    home = make_stubs(tmp_path_factory.mktemp("whole"))
    done = cxr(home, *RUN)
    assert done.returncode == 0 and "5 of 5 experiments" in done.stdout, done.stdout + done.stderr
    assert len(made(home)) == 5 * 4
    return made(home)


def until(run, words):
    """Read a run's lines up to one that holds these words."""
    return next((line for line in run.stdout if words in line), None)


def test_an_interrupt_ends_all_within_five_seconds(tmp_path, whole):
    home = make_stubs(tmp_path / "home")
    run = start(home)
    assert until(run, "a 1")
    at_work = family(run)
    os.killpg(run.pid, signal.SIGINT)  # what Ctrl-C does to everything in the terminal
    assert len(at_work) >= 4 and not alive(at_work, 5)
    assert "what was finished is kept" in run.communicate(timeout=5)[0] and run.returncode == 130
    assert not half_written(home)
    assert cxr(home, *RUN).returncode == 0 and made(home) == whole


@pytest.mark.parametrize("victim", ("job", "kernel"))
def test_one_dead_process_costs_one_branch(tmp_path, whole, victim):
    """Papermill or the kernel of `a` is killed: `a` is named, `b`, which doesn't need it, is made, the next run makes the rest."""
    home = make_stubs(tmp_path / "home")
    run = start(home, "--cores", "1")  # one notebook at a time
    assert until(run, "a 1")
    (found,) = workers(run)[victim]
    found.kill()
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 1 and "failed: stub2000/a: " in said, said
    assert {"kernel": "its kernel died", "job": "its run was killed"}[victim] in said, said
    kept = home / "build/runs/phantom-smoke/notebooks/stub2000/a.ipynb"
    assert notebook_status(kept)["status"] == "failed" and str(kept) in said
    assert not half_written(home)
    assert (home / "build/runs/phantom-smoke/state/stub2000/b.json").is_file()
    assert cxr(home, *RUN).returncode == 0 and made(home) == whole


def test_a_full_disk_is_named_and_nothing_half_is_taken_for_whole(tmp_path, whole):
    """build/ on a disk of 300 kB; then room is made, and the run goes on."""
    home = make_stubs(tmp_path / "home")
    (home / "build").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(home / "build")], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no small disk here: mounting one needs root")
    try:
        done = cxr(home, *RUN)
        assert done.returncode == 1 and "No space left on device" in done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stderr and not half_written(home)
        subprocess.run(["mount", "-o", "remount,size=64m", str(home / "build")], check=True)
        again = cxr(home, *RUN)
        assert again.returncode == 0, again.stdout + again.stderr
        assert made(home) == whole
    finally:
        subprocess.run(["umount", "-l", str(home / "build")], check=True)


def test_twice_from_nothing_names_what_differs(tmp_path):
    """`cxr reproduce`, where one notebook of five writes the time: it is named, the rest is the same bytes, both runs are kept (`make soak` compares a real pipeline)."""
    home, words = make_stubs(tmp_path / "home"), ("reproduce", "--paper", "stub2000", "--preset", "smoke")
    notebook = home / "nbs/papers/stub2000/50_e.ipynb"
    notebook.write_text(notebook.read_text().replace("len(read)", "time.time_ns()"))
    done = cxr(home, *words)
    assert done.returncode == 1 and "differs results/stub2000/e.csv: stub2000/e" in " ".join(done.stdout.split())
    assert "second run, from nothing: " in done.stdout
    assert "4 of 5 files are the same" in done.stdout and len(list((home / "build").glob("twice-*/second"))) == 1


@pytest.mark.parametrize("to_all", (True, False))
def test_a_comparison_that_is_interrupted_leaves_nothing(tmp_path, to_all):
    """By Ctrl-C in a terminal, or by a signal to the command alone: its runs end, and their folders are gone."""
    home = make_stubs(tmp_path / "home")
    run = start(home, call=("reproduce", "--paper", "stub2000", "--preset", "smoke"))
    assert until(run, "a 1")
    at_work = family(run)
    (os.killpg if to_all else os.kill)(run.pid, signal.SIGINT)
    said = run.communicate(timeout=30)[0]
    assert run.returncode == 130 and "begins from nothing" in said, said
    assert len(at_work) >= 4 and not alive(at_work, 5) and not list((home / "build").glob("twice-*"))


def test_two_runs_at_once_share_the_work(tmp_path, whole):
    """The second says who is at work, waits, and finds everything made."""
    home = make_stubs(tmp_path / "home")
    first = start(home)
    assert until(first, "started")
    second = cxr(home, *RUN)
    assert f"(process {first.pid}): waiting for it" in second.stdout and second.returncode == 0, second.stdout
    assert "experiments to run" not in second.stdout
    first.communicate(timeout=60)
    assert first.returncode == 0 and made(home) == whole
