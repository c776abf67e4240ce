"""The house is in order: exports in sync, notebooks stripped, formatted, lists that agree, a light import."""

import json
import re
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 100, "git lists too few files for the checks below to mean anything"
    return files


def _settings():
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


def test_exports_are_in_sync(tmp_path):
    """Export into another folder and compare: what is committed is what the notebooks say."""
    import shutil

    for name in ("nbs", "settings.ini", "cxr_companion"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    for module in (tmp_path / "cxr_companion").rglob("*.py"):
        if "File to edit" in module.read_text():
            module.unlink()
    subprocess.run([str(Path(sys.executable).with_name("nbdev_export"))], cwd=tmp_path, check=True)
    ours = {p.relative_to(ROOT): p.read_text() for p in (ROOT / "cxr_companion").rglob("*.py")}
    theirs = {p.relative_to(tmp_path): p.read_text() for p in (tmp_path / "cxr_companion").rglob("*.py")}
    assert sorted(ours) == sorted(theirs)
    assert [str(name) for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_is_stripped(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    assert all(set(c["metadata"]) <= {"tags"} for c in cells)


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if "papers" in p.parts], ids=lambda p: p.stem)
def test_experiment_has_its_parameters(path):
    from cxr_companion.report.execute import declared_parameters

    declared = declared_parameters(path)
    assert {"data", "root", "test_root", "out", "preset", "seed"} <= set(declared)
    assert all(p.help for p in declared.values()), "every parameter says what it is"


@pytest.mark.parametrize("command", (["check", "."], ["format", "--check", "."]), ids=("lint", "format"))
def test_ruff(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_environment_agrees_with_settings():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(item["pip"] for item in listed if isinstance(item, dict))
    settings = _settings()
    assert sorted(pip) == sorted(settings["requirements"].split() + settings["dev_requirements"].split())
    assert f"python={settings['min_python']}" in listed


def test_pinned_set_satisfies_the_bounds():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = {Requirement(line).name.lower(): line.split("==")[1] for line in lines if line}
    settings = _settings()
    for bound in map(Requirement, settings["requirements"].split() + settings["dev_requirements"].split()):
        if bound.name.lower() in pinned:
            assert bound.specifier.contains(pinned[bound.name.lower()]), f"{bound} against {pinned[bound.name.lower()]}"
        else:  # comes with another package
            from importlib.metadata import version

            assert bound.specifier.contains(version(bound.name)), f"{bound} against {version(bound.name)}"


def test_import_is_light():
    code = "import sys, time; t = time.perf_counter(); import cxr_companion; print(time.perf_counter() - t, 'torch' in sys.modules)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert all(torch == "False" for _, torch in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.3


def test_core_and_report_lists_come_without_torch():
    code = "import sys, cxr_companion.report.cli, cxr_companion.report.pipeline, cxr_companion.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_readme_gives_the_command_early():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert next(i for i, line in enumerate(lines, 1) if line.strip() == "make figures") <= 25


def test_nothing_names_a_registry_or_commits_films():
    hosts = re.compile(r"https?://[\w.-]*(pypi|anaconda|npmjs|pythonhosted)[\w.-]*", re.I)
    for path in _tracked():
        assert path.stat().st_size < 1_500_000, f"{path} is {path.stat().st_size} bytes"
        assert path.suffix not in (".dcm", ".npy", ".safetensors"), path
        assert path.suffix != ".png" or path.is_relative_to(ROOT / "figures"), path
        if path.suffix in (".py", ".md", ".txt", ".ini", ".yml", ".yaml", ".ipynb", ".cff", ""):
            assert not hosts.search(path.read_text(errors="replace")), path


def test_nothing_is_tracked_that_git_ignores():
    """A link to an environment elsewhere, say, which would take a reader's own environment away."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if line.startswith("120000")], "a symbolic link is tracked"
    asked = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert not subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_nothing_cites_what_a_reader_has_not():
    """Sources are papers, standards or files of this repository; the folder of real films is named in .ci/run alone."""
    elsewhere = re.compile(r"\bHOUSE\b|\.\./shared")
    allowed = (ROOT / ".ci/run", Path(__file__).resolve())
    texts = {p: p.read_text(errors="replace") for p in _tracked() if p not in allowed and p.suffix not in (".png",)}
    assert [str(p.relative_to(ROOT)) for p, text in texts.items() if elsewhere.search(text)] == []


def test_no_trace_of_a_slow_start():
    """`cxr --help` answers at once."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from cxr_companion.report.cli import app; app()", "--help"],
        check=True,
        capture_output=True,
    )
    assert time.perf_counter() - started < 5
