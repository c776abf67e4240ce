"""Inspection of a folder: what it names, what it never repeats, and that nothing in a folder can crash, hang or fool it."""

import gzip
import io
import os
import re
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from typer.testing import CliRunner

from cxr_companion.core.images import write_png
from cxr_companion.data import inspection
from cxr_companion.data.inspection import (
    Lost,
    in_workers,
    inspect_archive,
    inspect_folder,
    inspect_header,
    inspection_summary,
)
from cxr_companion.phantom.dicom_file import write_dicom
from cxr_companion.phantom.export import write_layout
from cxr_companion.phantom.hospitals import hospital_spec
from cxr_companion.report.cli import app
from tests.mutations import FUZZ, damaged

FILM = np.linspace(-1, 1, 32 * 32).reshape(32, 32)
VALUES = {
    "PatientName": "Zweig^Stefanie",
    "PatientBirthDate": "19320919",
    "PatientID": "KH-4711",
    "OtherPatientIDs": "QX99812",
    "AccessionNumber": "ACC-55821",
    "InstitutionName": "Sankt Marien",
    "ReferringPhysicianName": "Brandt^Ute",
    "PatientAddress": "Lindenallee 7",
    "StudyDate": "20110203",
}


def identified(path: Path, **fields) -> Path:
    """A film whose header, nested items and private fields still hold a person."""
    write_dicom(path, FILM, fields=VALUES | fields)
    dataset = dcmread(path)
    item = Dataset()
    item.RequestingPhysician, item.PatientComments = "Okonkwo^Ada", "lives with Henrik"
    dataset.RequestAttributesSequence = Sequence([item])
    dataset.private_block(0x0019, "ACME", create=True).add_new(2, "LO", "Zweig at the ward")
    dataset.save_as(path)
    return path


def problems(table: pd.DataFrame) -> dict[str, list[str]]:
    """File -> its problems."""
    return {file: list(part) for file, part in table.groupby("file")["problem"]}


def test_it_names_the_field_and_never_the_value(tmp_path):
    (tmp_path / "größe").mkdir()
    identified(tmp_path / "größe/肺.dcm", BurnedInAnnotation="YES")
    identified(tmp_path / "refused.dcm", Modality="Zweig")  # a reader's complaint would quote it
    table = inspect_folder(tmp_path)
    assert problems(table) == {
        "größe/肺.dcm": ["direct identifier", "possible identifier", "burned-in annotation"],
        "refused.dcm": ["direct identifier", "possible identifier", "unreadable film"],
    }
    detail = table.set_index(["file", "problem"])["detail"]["größe/肺.dcm"]
    for name in (
        "PatientName (0010,0010)",
        "PatientBirthDate",
        "PatientAddress",
        "RequestAttributesSequence/RequestingPhysician (0032,1032)",
    ):
        assert name in detail["direct identifier"]
    for name in (
        "PatientID (0010,0020)",
        "AccessionNumber",
        "InstitutionName",
        "StudyDate",
        "RequestAttributesSequence/PatientComments",
        "1 private field",
    ):
        assert name in detail["possible identifier"]
    written = table.to_csv() + inspection_summary(table)
    for value in (*VALUES.values(), "Okonkwo^Ada", "lives with Henrik", "ACME"):
        for part in (value, *re.split(r"[\^ ]", value)):
            assert len(part) < 3 or not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", written, re.IGNORECASE), part


def test_the_command_says_no_value_either(tmp_path):
    identified(tmp_path / "a.dcm")
    result = CliRunner().invoke(app, ["check", str(tmp_path), "--csv", str(tmp_path / "found.csv")])
    assert result.exit_code == 1 and "direct identifier" in result.output
    for said in (result.output, (tmp_path / "found.csv").read_text()):
        assert not [value for value in VALUES.values() if value in said]
    for i in range(101):
        (tmp_path / f"{i}.png").write_bytes(b"")
    assert "and 3 more rows: --csv FILE writes them all" in CliRunner().invoke(app, ["check", str(tmp_path)]).output
    assert CliRunner().invoke(app, ["check", str(tmp_path / "none")]).exit_code == 2


def test_the_real_radiograph_is_not_deidentified():
    """RG1 of the DICOM working group's samples carries a (made-up) name, a birth date and an institution."""
    path = get_testdata_file("RG1_UNCI.dcm", download=False)
    if path is None:
        pytest.skip("pydicom-data isn't installed")
    header = inspect_header(path)
    direct = "ReferringPhysicianName (0008,0090), PatientName (0010,0010), PatientBirthDate (0010,0030)"
    assert header.problems[0] == ("direct identifier", direct)
    assert "InstitutionName (0008,0080)" in header.problems[1][1]
    assert header.clean("CompressedSamples^RG1, born 19400305") == "..., born ..."


@pytest.mark.parametrize("name", ("vbd", "openi", "mimic"))
def test_what_the_simulator_writes_is_clean(tmp_path, name):
    import importlib

    layout = importlib.import_module(f"cxr_companion.phantom.{name}_layout").LAYOUT
    root = write_layout(layout, hospital_spec(name, 4, size=32), tmp_path / "root", processes=1)
    table = inspect_folder(root)
    assert table.empty and list(table.columns) == ["file", "problem", "detail"]
    assert table.attrs["looked"]["skipped"] > 0 and re.match(r"\d+ files: nothing found\.", inspection_summary(table))


def test_a_directory_of_films_is_no_film_but_has_names(tmp_path):
    record = Dataset()
    record.DirectoryRecordType, record.PatientName = "PATIENT", "Zweig^Stefanie"
    dataset = Dataset()
    dataset.DirectoryRecordSequence = Sequence([record])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.1.3.10",
        "2.25.1",
    )
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    table = inspect_folder(tmp_path)
    assert table.values.tolist() == [
        ["DICOMDIR", "direct identifier", "DirectoryRecordSequence/PatientName (0010,0010)"]
    ]


def test_hidden_dicom_is_found_by_its_mark(tmp_path):
    """Under another suffix, and without preamble under a film's suffix."""
    data = identified(tmp_path / "a.dcm").read_bytes()
    (tmp_path / "notes.txt").write_bytes(data)
    (tmp_path / "bare.dcm").write_bytes(data[132:])
    (tmp_path / "table.csv").write_text("PatientName\nZweig\n")
    found = problems(inspect_folder(tmp_path))
    assert sorted(found) == ["a.dcm", "bare.dcm", "notes.txt"]
    assert all("direct identifier" in what for what in found.values())


def test_a_deflated_header_is_read_and_a_bomb_is_not(tmp_path):
    path = identified(tmp_path / "a.dcm")
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    header = inspect_header(path)
    assert [problem for problem, _ in header.problems] == ["direct identifier", "possible identifier"]
    import zlib

    data, pack = path.read_bytes(), zlib.compressobj(9, zlib.DEFLATED, -15)
    at = 144 + int.from_bytes(data[140:144], "little")
    element = b"\x09\x00\x01\x10OB\x00\x00" + (2**30).to_bytes(4, "little")
    packed = pack.compress(element) + b"".join(pack.compress(bytes(2**24)) for _ in range(16)) + pack.flush()
    path.write_bytes(data[:at] + packed)
    start = time.monotonic()
    assert inspect_header(path).problems[0][0] == "unreadable header"
    assert time.monotonic() - start < 5


def test_deep_nesting_ends_in_a_name(tmp_path):
    """Sequences within sequences, 5,000 deep."""
    head = identified(tmp_path / "a.dcm").read_bytes()
    start = b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (tmp_path / "a.dcm").write_bytes(head[: 144 + int.from_bytes(head[140:144], "little")] + start * 5000)
    assert problems(inspect_folder(tmp_path))["a.dcm"][0] == "unreadable header"


def test_workers_that_die_or_hang_are_named_in_order():
    slow = ["__import__('time').sleep(99)", "1", "__import__('os')._exit(3)", "2", "[0] * 10**10", "3"]
    start = time.monotonic()
    results = list(in_workers(eval, slow, processes=2, seconds=6))
    died = "the process that read it died (exit code {})".format
    assert results == [Lost("it took longer than 6 s"), 1, Lost(died(3)), 2, Lost(died(1)), 3]  # 80 GB are over the cap
    assert time.monotonic() - start < 60


def test_a_reader_that_dies_costs_one_file_its_row(tmp_path, monkeypatch):
    for i in range(5):
        write_png(tmp_path / f"{i}.png", FILM)
    monkeypatch.setattr(inspection, "_look_below", _dies_on_three)
    table = inspect_folder(tmp_path, processes=2)
    assert table.values.tolist() == [["3.png", "no answer", "the process that read it died (signal SIGSEGV)"]]
    assert table.attrs["looked"]["film"] == 4 and table.attrs["looked"]["other"] == 1


def _dies_on_three(folder: Path, name: str):
    if name == "3.png":
        os.kill(os.getpid(), 11)
    return "film", []


def test_leaving_early_leaves_no_process(tmp_path):
    answers = in_workers(os.getppid, [])
    assert list(answers) == []
    answers = in_workers(eval, ["__import__('os').getpid()", "1"])
    pid = next(answers)
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_table_is_the_same_whatever_the_number_of_workers(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02d}.png").write_bytes(b"" if i % 3 else b"text")
    one, two = inspect_folder(tmp_path, processes=1), inspect_folder(tmp_path, processes=2)
    assert one.equals(two) and one["file"].tolist() == [f"{i:02d}.png" for i in range(30)]


def test_unreadable_films_come_with_their_reason(tmp_path):
    (tmp_path / "JPCLN001.IMG").write_bytes(bytes(5))
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.jpg").write_text("not a picture")
    (tmp_path / "c.dcm").write_text("not a film")
    write_png(tmp_path / "good.png", FILM)
    reasons = inspect_folder(tmp_path).set_index("file")["detail"].to_dict()
    assert (
        reasons["a.png"] == "is empty"
        and reasons["b.jpg"] == "is not an image"
        and "8,388,608" in reasons["JPCLN001.IMG"]
    )
    assert "DICOM" in reasons["c.dcm"] and "good.png" not in reasons


def test_links_pipes_and_empty_folders(tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        inspect_folder(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        inspect_folder(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="not a folder"):
        inspect_folder(tmp_path / "file")
    outside = tmp_path / "outside"
    outside.mkdir()
    identified(outside / "secret.dcm")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_png(folder / "good.png", FILM)
    for name, target in (
        ("dir", outside),
        ("film.dcm", outside / "secret.dcm"),
        ("up", ".."),
        ("in.png", "good.png"),
        ("self", "self"),
    ):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may be reached through a link
    table = inspect_folder(tmp_path / "alias")
    link, other = "link leaves the folder", "not a file"
    assert problems(table) == {"dir": [link], "film.dcm": [link], "pipe.png": [other], "self": [link], "up": [link]}
    assert table.attrs["looked"]["film"] == 1


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    """As another user would meet it: the file system refuses to list one folder."""
    (tmp_path / "shut").mkdir()
    write_png(tmp_path / "good.png", FILM)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert inspect_folder(tmp_path).values.tolist() == [["shut", "not a file", "the folder can't be opened"]]


def test_archives_are_listed_never_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.writestr("a/1.png", b"x")
        archive.writestr("../../evil.txt", b"x")
    with tarfile.open(tmp_path / "films.tgz", "w:gz") as archive:
        for name in ("/abs", "ok"):
            archive.addfile(tarfile.TarInfo(name))
    (tmp_path / "torn.zip").write_bytes((tmp_path / "films.zip").read_bytes()[:60])
    (tmp_path / "torn.tar.gz").write_bytes(gzip.compress(b"x" * 700))
    before = sorted(p.name for p in tmp_path.parent.rglob("*"))
    table = inspect_folder(tmp_path)
    assert sorted(p.name for p in tmp_path.parent.rglob("*")) == before
    assert problems(table) == {
        "films.tgz": ["unsafe archive"],
        "films.zip": ["unsafe archive"],
        "torn.tar.gz": ["damaged archive"],
        "torn.zip": ["damaged archive"],
    }
    assert table["detail"][0] == "'/abs' is absolute or climbs out with .."
    assert inspection_summary(table).endswith("4 archives listed, not unpacked: what lies inside isn't checked.")


def test_bombs_end_in_bounded_time(tmp_path):
    """1 GiB of zeros in 1 MB: a zip says so in its list, a compressed tar is left at its limit."""
    size = 2**30
    info = tarfile.TarInfo("zeros")
    info.size = size
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=9) as file:
        file.write(info.tobuf())
        for _ in range(size // 2**24):
            file.write(bytes(2**24))
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w") as member,
    ):
        for _ in range(size // 2**25):
            member.write(bytes(2**24))
    start = time.monotonic()
    for name in ("bomb.tar.gz", "bomb.zip"):
        ((problem, detail),) = inspect_archive(tmp_path / name)
        assert problem == "unsafe archive" and "decompression bomb" in detail
    assert time.monotonic() - start < 5


def _archives() -> dict[str, bytes]:
    out = {}
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz"), ("a.tar.bz2", "w:bz2")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as archive:
            for member in ("films/é.png", "x" * 120, "b"):
                info = tarfile.TarInfo(member)
                info.size = 600
                archive.addfile(info, io.BytesIO(bytes(600)))
        out[name] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("films/é.png", "x" * 120, "b"):
            archive.writestr(member, bytes(600))
    return {**out, "a.zip": buffer.getvalue()}


ARCHIVES = _archives()


@FUZZ
@given(data=st.data())
def test_a_damaged_archive_is_judged_not_followed(tmp_path_factory, data):
    """Whatever was damaged: a list of problems in bounded time, never an exception."""
    name = data.draw(st.sampled_from(sorted(ARCHIVES)))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data.draw(damaged(ARCHIVES[name], head=600)))
    start = time.monotonic()
    found = inspect_archive(path)
    assert {problem for problem, _ in found} <= {"unsafe archive", "damaged archive"}
    assert time.monotonic() - start < 5


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return identified(tmp_path_factory.mktemp("named") / "a.dcm").read_bytes()


@FUZZ
@given(data=st.data())
def test_a_damaged_header_is_judged(named, tmp_path_factory, data):
    """Whatever was damaged: a judgement, never an exception; a name that still stands there whole is found or the header is named."""
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    content = data.draw(damaged(named))
    path.write_bytes(content)
    start = time.monotonic()
    header = inspect_header(path)
    assert time.monotonic() - start < 5 and header.is_film
    assert not any("Zweig" in detail or "19320919" in detail for _, detail in header.problems)


def test_no_thread_or_variable_is_left_behind(tmp_path):
    import sys

    write_png(tmp_path / "a.png", FILM)
    main, threads = sys.modules["__main__"], threading.active_count()
    inspect_folder(tmp_path)
    assert sys.modules["__main__"] is main and threading.active_count() == threads


def test_each_kind_of_file_is_judged_in_its_own_way(tmp_path, monkeypatch):
    """What workers do, done here: kind and problems of one file each."""
    look = inspection._look_below
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../x", b"")
    (tmp_path / "table.csv").write_text("a\n")
    (tmp_path / "._a.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    write_png(tmp_path / "good.png", FILM)
    identified(tmp_path / "named.dcm", Modality="Zweig")
    write_dicom(tmp_path / "clean.dcm", FILM)
    kinds = {
        name: look(tmp_path, name)[0]
        for name in ("a.zip", "table.csv", "._a.dcm", "good.png", "named.dcm", "clean.dcm")
    }
    assert list(kinds.values()) == ["archive", "skipped", "skipped", "film", "dicom", "dicom"]
    assert look(tmp_path, "good.png")[1] == look(tmp_path, "clean.dcm")[1] == look(tmp_path, "table.csv")[1] == []
    assert look(tmp_path, "named.dcm")[1][-1] == (
        "unreadable film",
        "is no radiograph: its modality is ..., not CR or DX or RG; say other_modality=True to read it anyway",
    )
    assert look(tmp_path, "none.txt") == ("shut", [("not a file", "it can't be opened")])
    assert look(tmp_path, "none.png") == ("film", [("unreadable film", "is missing")])

    def fails(path):
        raise RuntimeError("Zweig")

    monkeypatch.setattr(inspection, "read_film", fails)
    assert look(tmp_path, "good.png")[1] == [("unreadable film", "its reader failed (RuntimeError)")]
