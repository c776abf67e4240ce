"""DICOM films: every encoding gives the same picture, and every broken file ends in one sentence that names it, in bounded time."""

import io
import re
import time
import warnings
import zlib

import gdcm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr_companion.core.images import MAX_PIXELS
from cxr_companion.data import dicom
from cxr_companion.data.dicom import read_dicom
from cxr_companion.data.films import read_film
from cxr_companion.phantom.cohort import CohortSpec
from cxr_companion.phantom.dicom_file import write_dicom
from cxr_companion.phantom.film import render
from tests.mutations import FUZZ, damaged

FILM = render(CohortSpec(n_films=2, size=48, seed=4), 0)
HEADER = {"view": "PA", "sex": "F", "age": 61, "spacing_mm": 0.143}
EXACT = {
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "deflated": DeflatedExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "JPEG Lossless": JPEGLosslessSV1,
}


def as_bytes(dataset: Dataset, **settings) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True, **settings)
    return buffer.getvalue()


def with_gdcm(path, syntax: int, out) -> bytes:
    """Re-encode a file with GDCM, whose JPEG Lossless encoder pydicom lacks."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(out))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return out.read_bytes()


def reencoded(path, syntax, out) -> bytes:
    """The same film in another transfer syntax."""
    if syntax == JPEGLosslessSV1:
        return with_gdcm(path, gdcm.TransferSyntax.JPEGLosslessProcess14_1, out)
    dataset = dcmread(path)
    if syntax in (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        return as_bytes(
            dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
        )
    dataset.compress(syntax, **({"j2k_psnr": [60]} if syntax == JPEG2000 else {}))
    return as_bytes(dataset)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A film of 12 bits, not compressed."""
    return write_dicom(tmp_path_factory.mktemp("plain") / "film.dcm", FILM.image, **HEADER)


@pytest.fixture(scope="module")
def encodings(plain, tmp_path_factory):
    """Name of an encoding -> the film's file in it."""
    folder = tmp_path_factory.mktemp("encodings")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = {name: reencoded(plain, syntax, folder / "gdcm.dcm") for name, syntax in EXACT.items()}
        out["JPEG 2000, lossy"] = reencoded(plain, JPEG2000, folder)
    eight = dcmread(write_dicom(folder / "8.dcm", FILM.image, bits=8, **HEADER))
    buffer = io.BytesIO()
    Image.fromarray(eight.pixel_array).save(buffer, "JPEG", quality=95)
    eight.PixelData = encapsulate([buffer.getvalue()])
    eight["PixelData"].is_undefined_length = True
    eight.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return {"plain": plain.read_bytes(), "8 bits": (folder / "8.dcm").read_bytes(), "JPEG": as_bytes(eight), **out}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_encodings_agree_to_the_bit(plain, encodings, tmp_path, name):
    """Whatever the transfer syntax, pixels and header are those of the file that isn't compressed."""
    film, other = read_dicom(plain), read_dicom(_put(tmp_path, encodings[name]))
    assert np.array_equal(film.pixels, other.pixels)
    assert (other.view, other.sex, other.age, other.spacing_mm, other.plane) == ("PA", "F", 61, 0.143, "detector")
    assert np.abs(film.pixels - FILM.image).max() < 1.01 / 3583  # half a level of 3,583 steps


@pytest.mark.parametrize("name, source", (("JPEG 2000, lossy", "plain"), ("JPEG", "8 bits")))
def test_lossy_encodings_agree_nearly(encodings, tmp_path, name, source):
    """Lossy coding may cost ten of 255 grey levels at an edge and two on average (a level is 0.008), no more."""
    lossy, exact = (read_dicom(_put(tmp_path, encodings[key])).pixels for key in (name, source))
    off = np.abs(lossy - exact)
    assert 0 < off.mean() < 0.016 and off.max() < 0.08, (off.max(), off.mean())


def _put(folder, data: bytes, name: str = "film.dcm"):
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    "bits, window, modality", ((8, False, "CR"), (10, True, "DX"), (16, True, "CR"), (12, False, "DX"))
)
def test_both_photometric_interpretations_show_one_picture(tmp_path, bits, window, modality):
    settings = {"bits": bits, "window": window, "modality": modality}
    paths = [
        write_dicom(tmp_path / f"{p}.dcm", FILM.image, photometric=p, **settings)
        for p in ("MONOCHROME1", "MONOCHROME2")
    ]
    one, two = map(read_dicom, paths)
    assert (one.photometric, two.photometric) == ("MONOCHROME1", "MONOCHROME2")
    steps = 2**bits * (7 / 8 if window else 1) - 2
    assert np.abs(one.pixels - two.pixels).max() <= 2.01 / steps  # a half rounds the other way when it is inverted


def test_the_real_radiograph_is_one_picture_in_four_encodings():
    """RG1 of the DICOM working group's samples: uncompressed and JPEG 2000, lossless and lossy."""
    paths = {name: get_testdata_file(f"RG1_{name}.dcm", download=False) for name in ("UNCR", "UNCI", "J2KR", "J2KI")}
    if None in paths.values():
        pytest.skip("pydicom-data isn't installed")
    films = {name: read_dicom(path) for name, path in paths.items()}
    reference = films["UNCR"]
    assert reference.pixels.shape == (1955, 1841) and reference.photometric == "MONOCHROME1"
    assert (reference.spacing_mm, reference.plane, reference.view) == (None, "", "PA")
    assert np.array_equal(films["J2KR"].pixels, reference.pixels)  # lossless
    assert np.array_equal(films["J2KI"].pixels, films["UNCI"].pixels)  # one is the other, unpacked
    assert 0 < np.abs(films["J2KI"].pixels - reference.pixels).mean() < 0.01  # lossy, 10:1
    heart, lung = reference.pixels[1100:1300, 850:1000].mean(), reference.pixels[600:800, 450:600].mean()
    assert heart > lung + 0.2, "the film's polarity: the heart is denser than lung"


def _without_pixels(dataset):
    del dataset.PixelData


def _set(**fields):
    def change(dataset):
        for name, value in fields.items():
            setattr(dataset, name, value)

    return change


def _color(dataset):
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.PixelData = dataset.PixelData * 3


def _frames(dataset):
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData * 2


BROKEN = {
    "no pixels": (_without_pixels, "holds no pixels"),
    "0 rows": (_set(Rows=0), "is 48 x 0 px: too small"),
    "short": (lambda d: setattr(d, "PixelData", d.PixelData[:-200]), "damaged or can't be decoded"),
    "bomb": (
        _set(Rows=65535, Columns=65535),
        f"claims 65535 x 65535 px: more than the {MAX_PIXELS:,} that a film may have",
    ),
    "frames": (_frames, "has 2 frames, not one: say first_frame=True"),
    "CT": (_set(Modality="CT"), "is no radiograph: its modality is CT, not CR or DX"),
    "CT by class": (
        _set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
        "is no radiograph: its SOP class is CT Image Storage",
    ),
    "raw": (_set(PresentationIntentType="FOR PROCESSING"), "is FOR PROCESSING"),
    "raw by class": (_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"), "is FOR PROCESSING"),
    "colour": (_color, "is no grey film: RGB, 3 samples a pixel"),
    "no photometric": (_set(PhotometricInterpretation=""), "is no grey film: no photometric interpretation"),
    "palette": (_set(PhotometricInterpretation="PALETTE COLOR"), "is no grey film: PALETTE COLOR"),
    "bits": (_set(BitsAllocated=24), "holds 12 bits of 24"),
    "upper bits": (_set(HighBit=15), "up to bit 15"),
    "no slope": (_set(RescaleSlope=0), "rescale slope of 0"),
}


def refusal(path, **options) -> str:
    """The sentence that a file is refused with: it starts with the path and has one line."""
    with pytest.raises(ValueError) as error:
        read_dicom(path, **options)
    assert str(error.value).startswith(f"{path} ") and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_film_is_refused_in_a_sentence(plain, tmp_path, name):
    change, words = BROKEN[name]
    dataset = dcmread(plain)
    change(dataset)
    path = _put(tmp_path, as_bytes(dataset), "größe 肺.dcm")
    assert words in refusal(path)
    with pytest.raises(ValueError, match="größe 肺"):
        read_film(path)


@pytest.mark.parametrize(
    "name, option",
    (("frames", "first_frame"), ("CT", "other_modality"), ("CT by class", "other_modality"), ("raw", "for_processing")),
)
def test_what_was_asked_for_is_read(plain, tmp_path, name, option):
    dataset = dcmread(plain)
    BROKEN[name][0](dataset)
    film = read_dicom(_put(tmp_path, as_bytes(dataset)), **{option: True})
    assert film.pixels.shape == (48, 48) and film.pixels.dtype == np.float32
    if name == "raw":
        assert any("FOR PROCESSING" in note for note in film.notes)
        assert np.corrcoef(film.pixels.ravel(), FILM.image.ravel())[0, 1] > 0.999
    else:
        assert np.array_equal(film.pixels, read_dicom(plain).pixels)


@pytest.mark.parametrize(
    "content, words",
    ((b"", "is empty"), (b"text", "is not a DICOM file"), (bytes(4096), "is not a DICOM file"), (None, "is missing")),
)
def test_what_is_no_dicom_is_said(tmp_path, content, words):
    path = tmp_path / "film.dcm"
    if content is not None:
        path.write_bytes(content)
    assert refusal(path) == f"{path} {words}"
    path.unlink(missing_ok=True)
    path.mkdir()
    assert "is missing" in refusal(path)


@pytest.mark.parametrize("cut", (133, 200, 400, 0.5, 0.9, 0.999))
def test_a_truncated_file_is_refused_in_every_encoding(encodings, tmp_path, cut):
    for name, data in encodings.items():
        whole = read_dicom(_put(tmp_path, data)).pixels
        path = _put(tmp_path, data[: cut if cut > 1 else int(cut * len(data))], f"{name}.dcm")
        try:
            film = read_dicom(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
        else:  # a picture may be whole before its last bytes; then it is the picture
            assert np.array_equal(film.pixels, whole), name


@pytest.mark.parametrize("name", ("RLE", "JPEG-LS", "JPEG 2000", "JPEG Lossless", "JPEG"))
@pytest.mark.parametrize("kept", (0.3, 0.9, 0.99))
def test_a_picture_cut_inside_a_whole_file_is_refused(encodings, tmp_path, name, kept):
    """The wrapping is in order, the compressed picture in it breaks off: half a film is no film."""
    dataset = dcmread(_put(tmp_path, encodings[name]))
    picture = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([picture[: int(kept * len(picture))]])
    dataset["PixelData"].is_undefined_length = True
    assert "damaged or can't be decoded" in refusal(_put(tmp_path, as_bytes(dataset)))


def bomb(data: bytes, size: int, lie: int | None = None) -> bytes:
    """A deflated file whose data set unpacks to `size` zeros; `lie` replaces the count of bytes that the file states."""
    at = 144 + int.from_bytes(data[140:144], "little")
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(pack.compress(bytes(2**24)) for _ in range(size // 2**24)) + pack.flush()
    stated = data[140:144] if lie is None else lie.to_bytes(4, "little")
    return data[:140] + stated + data[144:at] + packed


@pytest.mark.parametrize("lie", (None, 2**31 - 1, 0), ids=("honest", "past the end", "zero"))
def test_a_deflate_bomb_is_refused_by_number(encodings, tmp_path, lie):
    """Whatever the header says about its own length, 448 MiB of zeros in 435 KB aren't unpacked."""
    path = _put(tmp_path, bomb(encodings["deflated"], 448 * 2**20, lie))
    assert path.stat().st_size < 500_000
    said = re.search(r"unpacks to more than ([\d,]+) bytes", refusal(path))
    assert said and 2**25 < int(said[1].replace(",", "")) <= 4 * MAX_PIXELS


def test_a_compressed_picture_larger_than_its_header_is_refused(plain, encodings, tmp_path):
    """The header says 48 x 48; the JPEG 2000 or JPEG stream claims more."""
    for name, mark, at in (
        ("JPEG 2000", b"\xff\x4f\xff\x51", 8),
        ("JPEG", b"\xff\xc0", 5),
        ("JPEG-LS", b"\xff\xf7", 5),
    ):
        data = encodings[name]
        k = data.index(mark) + at
        large = (60000).to_bytes(4 if name == "JPEG 2000" else 2)
        path = _put(tmp_path, data[:k] + large + data[k + len(large) :])
        assert "contradicts itself: the header says 48 x 48 px" in refusal(path), name


@FUZZ
@given(data=st.data())
def test_damage_ends_in_a_film_or_a_sentence(encodings, tmp_path_factory, data):
    """Flipped, inserted, deleted, overwritten and lost bytes: a film with finite pixels, or a ValueError, within 5 s."""
    name = data.draw(st.sampled_from(sorted(encodings)))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(data.draw(damaged(encodings[name])))
    start = time.monotonic()
    try:
        film = read_dicom(path)
    except ValueError as error:
        assert str(error).startswith(f"{path} ") and "\n" not in str(error) and len(str(error)) < 600
    else:
        assert film.pixels.dtype == np.float32 and np.isfinite(film.pixels).all() and np.abs(film.pixels).max() <= 1
        assert film.view in ("PA", "AP", "lateral", "") and film.sex in ("F", "M", "")
        assert film.spacing_mm is None or 0 < film.spacing_mm < 10
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ("JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000", "RLE"))
def test_damage_inside_a_picture_ends_nobody(encodings, tmp_path, capfd, monkeypatch, name):
    """Damage in the compressed part alone, where decoders work: GDCM ended its process on one such file in eight (JPEG)."""
    monkeypatch.setattr(dicom, "_LIMIT_S", 10)
    whole, seen = encodings[name], {"read": 0, "refused": 0}
    for i in range(FUZZ.max_examples * 2):
        rng, data = np.random.default_rng(i), bytearray(whole)
        for _ in range(rng.integers(1, 7)):
            at, how = int(rng.integers(700, len(data))), rng.random()
            if how < 0.6:
                data[at] ^= int(rng.integers(1, 256))
            elif how < 0.8:
                data[at:at] = bytes([int(rng.choice([0, 254, 255]))] * int(rng.integers(1, 5)))
            else:
                del data[at : at + int(rng.integers(1, 31))]
        path = _put(tmp_path, bytes(data))
        try:
            assert np.abs(read_dicom(path).pixels).max() <= 1
            seen["read"] += 1
        except ValueError as error:
            assert str(error).startswith(f"{path} ")
            seen["refused"] += 1
    assert seen["refused"] > 10, seen
    said = capfd.readouterr().err
    assert "Traceback" not in said and "panicked" not in said


def test_a_dead_decoder_is_replaced(encodings, tmp_path, monkeypatch):
    path = _put(tmp_path, encodings["JPEG Lossless"])
    for word in ("import os; os._exit(1)", "import os; print(os.read(0, 1))"):
        dicom._end(dicom._helper())
        with monkeypatch.context() as patch:
            patch.setattr(dicom, "_CHILD", word)
            with pytest.raises(ValueError, match="film.dcm is damaged or can't be decoded"):
                read_dicom(path)
    assert np.abs(read_dicom(path).pixels - FILM.image).max() < 1.01 / 3583
