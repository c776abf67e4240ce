"""Soak of the batch: random kills of what works for a run, and a one-node Slurm cluster."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cxr_companion.core.paths import root
from cxr_companion.core.seeds import stream
from cxr_companion.report.runs import fresh_checkout
from tests.conftest import cxr
from tests.stubs import RUN, half_written, made, make_stubs, start, workers


class Skipped(RuntimeError):
    """A check that can't be made on this machine; the message says why."""


def _kill_one(run: subprocess.Popen, kinds: list[str]) -> str:
    """Kill a process of the first kind that is at work; say which, or that none was."""
    found = workers(run)
    for kind in kinds:
        if found[kind]:
            found[kind][0].kill()
            return kind
    return "nothing"


def stub_kills_lose_nothing(count: int) -> int:
    """`kill -9` of runner, job or kernel at random moments of five stubs: nothing half is taken for whole, a rerun finishes."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        home = make_stubs(Path(folder) / "home")
        started = time.monotonic()
        assert cxr(home, *RUN).returncode == 0
        whole, seconds = made(home), time.monotonic() - started
        hits = tries = 0
        while hits < count and tries < 3 * count:  # at some moments there is nothing left to kill
            i, tries = tries, tries + 1
            shutil.rmtree(home / "build")
            rng = stream(3, i, "kill")
            run = start(home, stdout=subprocess.DEVNULL)
            moment = float(rng.uniform(0.3, seconds))
            with suppress(subprocess.TimeoutExpired):
                run.wait(moment)
            kinds = [("runner", "job", "kernel")[k] for k in rng.permutation(3)]
            killed = _kill_one(run, kinds) if run.poll() is None else "nothing"
            run.wait(120)
            torn = half_written(home)
            done = cxr(home, *RUN)
            good = not torn and done.returncode == 0 and made(home) == whole
            failures += not good
            hits += killed != "nothing"
            print(
                f"{killed} killed after {moment:.1f} s: {'finished, equal files' if good else f'{torn} {done.stdout} {done.stderr}'}"
            )
    return failures + count - hits


def papers_are_the_same_twice(count: int) -> int:
    """`cxr reproduce` at smoke size, every paper: each figure and number of the second run has the bytes of the first."""
    failures = 0
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            fresh_checkout(Path(folder))
            done = cxr(Path(folder), "reproduce", "--preset", "smoke", timeout=2400)
        print(done.stdout[-1500:] + done.stderr[-1500:] if done.returncode else done.stdout.splitlines()[-1])
        failures += bool(done.returncode)
    return failures


CONFIG = """ClusterName=cxr
SlurmctldHost={host}
AuthType=auth/munge
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
NodeName={host} CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _install_slurm() -> None:
    if os.environ.get("SLURM_TEST") != "install":
        raise Skipped("SLURM_TEST isn't 'install': no Slurm is put on this machine")
    if os.geteuid() or not shutil.which("apt-get"):
        raise Skipped("installing slurm-wlm and munge needs root and Debian's packages")
    if not shutil.which("slurmctld"):
        call = ["apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]
        subprocess.run(["apt-get", "update"], capture_output=True)
        done = subprocess.run(
            call, capture_output=True, text=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        )
        if done.returncode:
            raise Skipped(f"slurm-wlm and munge couldn't be installed: {done.stderr.strip()[-300:]}")


def _start_munge() -> None:
    key, sockets = Path("/etc/munge/munge.key"), Path("/run/munge")
    sockets.mkdir(parents=True, exist_ok=True)
    if not key.is_file():
        key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (key, sockets):
        shutil.chown(path, "munge", "munge")
    if "munged" not in {p.info["name"] for p in psutil.process_iter(["name"])}:
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)


@contextmanager
def one_node_slurm(folder: Path):
    """A Slurm cluster of this machine alone; its configuration stands where Slurm looks for it, and goes again."""
    _install_slurm()
    _start_munge()
    config = Path("/etc/slurm/slurm.conf")
    if config.exists() and "ClusterName=cxr" not in config.read_text():
        raise Skipped(f"{config} is there already: this machine belongs to a cluster")
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    config.parent.mkdir(exist_ok=True)
    memory = psutil.virtual_memory().total // 2**20 - 500
    config.write_text(
        CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder, cores=os.cpu_count(), memory=memory)
    )
    try:
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], check=True)
        subprocess.run(
            ["sbatch", "--wait", "--output=/dev/null", "--wrap=true"], check=True, timeout=60, stdout=subprocess.DEVNULL
        )
        yield
    finally:
        for daemon in psutil.process_iter(["name"]):
            if daemon.info["name"] in ("slurmctld", "slurmd"):
                daemon.kill()
        config.unlink()


def _queue() -> str:
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.strip()


def _left_in_queue(home: Path, call: tuple[str, ...]) -> str:
    """Interrupt a run while Slurm has a job of it; what Slurm still has when the run is over."""
    run, ends = start(home, call=call), time.monotonic() + 60
    while not _queue() and time.monotonic() < ends:
        time.sleep(0.2)
    assert _queue(), "no job came to Slurm within a minute"
    os.killpg(run.pid, signal.SIGINT)
    run.communicate(timeout=90)
    return _queue()


def slurm_runs_two_notebooks(count: int) -> int:
    """Real notebooks at smoke size as jobs of a one-node cluster, by the documented command; Ctrl-C takes jobs back."""
    topics = ("statistics_worked", "markers")[:count]
    with tempfile.TemporaryDirectory() as folder, one_node_slurm(Path(folder) / "slurm"):
        home = fresh_checkout(Path(folder) / "home")
        asked = [word for topic in topics for word in ("--topic", topic)]
        call = (
            "figures",
            "--paper",
            "kim2022",
            "--preset",
            "smoke",
            *asked,
            "--profile",
            str(root() / "profiles/slurm"),
        )
        log = Path(folder) / "slurm/slurmctld.log"
        left, before = _left_in_queue(home, call), log.read_text().count("Allocate JobId=")
        done = cxr(home, *call)
        proofs = [home / f"build/runs/phantom-smoke/state/kim2022/{topic}.json" for topic in topics]
        given = log.read_text().count("Allocate JobId=") - before
        failures = max(sum(not proof.is_file() for proof in proofs), count - given) + bool(left)
        if done.returncode or failures:
            logs = (home / ".snakemake/slurm_logs").rglob("*.log")  # Snakemake keeps those of failed jobs
            print(
                f"{given} jobs ran; left in the queue by Ctrl-C: {left!r}",
                done.stdout,
                done.stderr,
                *(log.read_text()[-2000:] for log in logs),
            )
    return failures
