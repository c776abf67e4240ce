"""Seconds and memory of listing a MIMIC-sized root: three made-up gz tables of 377,110 films, no pictures.

    python -m benchmarks.listing

The tables are made anew in a temporary folder; the listing runs in a fresh process, so that its peak memory is its own.
Prints one JSON line; the exit status is 1 if a limit is broken.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

N_FILMS, N_STUDIES, N_PATIENTS = 377_110, 227_835, 64_588  # the sizes that PhysioNet's page states
LIMITS = {"seconds": 10.0, "peak_mib": 1.5 * 1024}
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
_MEASURED = """
import json, resource, sys, time
started = time.perf_counter()
from cxr_companion.data.mimic import load_mimic
cohort = load_mimic(sys.argv[1], views=None, look=False)
seconds = time.perf_counter() - started
divisor = 1024 if sys.platform != "darwin" else 1024 * 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor
print(json.dumps({"films": len(cohort), "seconds": round(seconds, 2), "peak_mib": round(peak)}))
"""


def _write(folder: Path, kind: str, header: str, lines: list[str]) -> None:
    data = "\n".join([header, *lines, ""]).encode()
    (folder / f"mimic-cxr-2.0.0-{kind}.csv.gz").write_bytes(gzip.compress(data, 6, mtime=0))


def make_tables(folder: Path, n_films: int = N_FILMS, n_studies: int = N_STUDIES, n_patients: int = N_PATIENTS) -> None:
    """Write three tables with MIMIC's columns, sizes and sparsity; every id, label and view is made up."""
    rng = np.random.default_rng(0)
    study_of = np.sort(np.r_[np.arange(n_studies), rng.integers(0, n_studies, n_films - n_studies)])
    patient_of = np.sort(np.r_[np.arange(n_patients), rng.integers(0, n_patients, n_studies - n_patients)])
    subject = [str(10_000_032 + 100 * p) for p in range(n_patients)]
    study = [str(50_000_014 + 40 * s) for s in rng.permutation(n_studies)]
    part = rng.choice(["train", "validate", "test"], n_patients, p=[0.97, 0.02, 0.01])
    dicom = ["-".join(h[k : k + 8] for k in range(0, 40, 8)) for h in (rng.bytes(20).hex() for _ in range(n_films))]
    view = rng.choice(["AP", "PA", "LATERAL", "LL", ""], n_films, p=[0.39, 0.25, 0.22, 0.09, 0.05])
    clock = rng.integers(0, 86_400_000, n_films)
    films = [(d, subject[patient_of[s]], study[s], part[patient_of[s]]) for d, s in zip(dicom, study_of, strict=True)]
    tail = "CHEST (PORTABLE AP),antero-posterior,Erect"
    _write(
        folder,
        "metadata",
        METADATA,
        [f"{d},{p},{s},CHEST (PORTABLE AP),{v},3056,2544,21800506,{c / 1000:.3f},{tail}"
         for (d, p, s, _), v, c in zip(films, view, clock, strict=True)],
    )  # fmt: skip
    _write(folder, "split", "dicom_id,study_id,subject_id,split", [f"{d},{s},{p},{t}" for d, p, s, t in films])
    values = rng.choice(["", "1.0", "0.0", "-1.0"], (n_studies, 14), p=[0.8, 0.12, 0.05, 0.03])
    _write(
        folder,
        "chexpert",
        LABELS,
        [f"{subject[patient_of[s]]},{study[s]},{','.join(row)}" for s, row in enumerate(values)],
    )


def measure(root: Path) -> dict:
    """List a root in a fresh process and give films, seconds (with the imports) and peak resident memory in MiB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(root)], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        make_tables(Path(folder))
        found = measure(Path(folder))
    print(json.dumps({"benchmark": "listing", **found, "limits": LIMITS}))
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
