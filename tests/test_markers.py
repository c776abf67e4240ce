"""Films that a marker detector and an inpainter meet in practice: each is filled just where it should be, or left out with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from torch import nn
from torchvision.ops import box_iou
from typer.testing import CliRunner

from cxr_companion.markers.detector import CODER, DetectorConfig, Predictions, anchors_for
from cxr_companion.markers.fills import fill_markers
from cxr_companion.markers.training import Detector
from cxr_companion.markers.unmarked_folder import INPAINTED, unmark_folder
from cxr_companion.report.cli import app

CONFIG = DetectorConfig(size=256, backbone="timm:test_efficientnet", strides=(8, 16), levels=2, width=8, repeats=1, head_repeats=1, anchor_scale=1.5)  # fmt: skip


class Told(nn.Module):
    """A network that is told where the markers are: (n, 4) corners in px of its square."""

    def __init__(self, boxes):
        super().__init__()
        self.config, self.unused = CONFIG, nn.Parameter(torch.zeros(1))
        self.boxes = torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4))

    def fold(self):
        return self

    def forward(self, x):
        anchors = anchors_for(self.config, *x.shape[-2:])
        logits, deltas = torch.full((len(x), len(anchors), 2), -9.0), torch.zeros(len(x), len(anchors), 4)
        for box in self.boxes:
            best = box_iou(box[None], anchors)[0].argmax()
            logits[:, best, 0], deltas[:, best] = 3.0, CODER.encode_single(box[None], anchors[best][None])[0]
        return Predictions(logits, deltas)


def told(*boxes):
    return Detector(Told(boxes).eval())


def film(side=256, bits=8):
    """Grey levels with texture, dark where nothing is."""
    top = 2**bits - 1
    levels = np.random.default_rng(0).normal(0.3 * top, 0.01 * top, (side, side)).clip(0, top)
    return levels.round().astype(np.uint8 if bits == 8 else np.uint16)


def written(folder, name):
    return np.asarray(Image.open(folder / name))


def changed(before, after):
    return before.astype(int) != after.astype(int)


@pytest.fixture
def ward(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("bits", (8, 16))
def test_several_markers_and_one_at_the_border(ward, tmp_path, bits):
    boxes, levels = [(20, 30, 34, 50), (240, 100, 256, 124)], film(bits=bits)
    for x0, y0, x1, y1 in boxes:
        levels[y0:y1, x0:x1] = 0.95 * (2**bits - 1)
    Image.fromarray(levels).save(ward / "two.png")
    table, bad = unmark_folder("membrane", told(*boxes), ward, tmp_path / "out")
    assert not bad and table["markers"].tolist() == [2]
    after = written(tmp_path / "out", "two.png")
    assert after.dtype == levels.dtype and after.max() < 0.5 * (2**bits - 1), "no marker is left"
    inside = np.zeros(levels.shape, bool)
    for x0, y0, x1, y1 in boxes:
        inside[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4] = True
    assert not changed(levels, after)[~inside].any(), "every other pixel is as it was"


def test_a_film_without_a_marker_is_the_same_file(ward, tmp_path):
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.tif", "TIFF")):
        Image.fromarray(film()).save(ward / name, kind)
    table, bad = unmark_folder("rim", told(), ward, tmp_path / "out")
    assert not bad and (table["note"] == "no marker: returned unchanged").all()
    for name in ("a.png", "b.jpg", "c.tif"):
        assert (tmp_path / "out" / name).read_bytes() == (ward / name).read_bytes()


def test_what_cannot_be_filled_is_left_out_by_name(ward, tmp_path):
    Image.fromarray(film()).convert("RGB").save(ward / "colour.png")
    Image.fromarray(film(16)).save(ward / "tiny.png")
    (ward / "cut.png").write_bytes(b"\x89PNG")
    (ward / "raw.img").write_bytes(b"short")
    table, bad = unmark_folder("rim", told((0, 0, 256, 256)), ward, tmp_path / "out")
    assert table.empty and sorted(bad) == ["colour.png", "cut.png", "raw.img", "tiny.png"]
    assert "not grey" in bad["colour.png"] and "covers all" in bad["tiny.png"] and "5 bytes" in bad["raw.img"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == [INPAINTED], "nothing half written"
    assert json.loads((tmp_path / "out" / INPAINTED).read_text())["left_out"] == bad


def test_masks_of_another_size_and_of_everything_are_refused():
    for mask, words in ((np.ones((8, 9), bool), "must be equal"), (np.ones((256, 256), bool), "covers all")):
        with pytest.raises(ValueError, match=words):
            fill_markers("rim", film(), mask)


def test_a_window_that_clips_the_marker(ward, tmp_path):
    """The display is white where the marker lies; the stored levels are filled all the same, and the window stays."""
    header = dcmread(Path(get_testdata_file("RG1_UNCR.dcm", download=False)))
    stored = header.pixel_array.copy()
    x0, y0, x1, y1 = 100, 100, 160, 190
    stored[y0:y1, x0:x1] = np.where(header.PhotometricInterpretation == "MONOCHROME1", stored.min(), stored.max())
    header.PixelData = stored.tobytes()
    header.WindowCenter, header.WindowWidth = int(np.median(stored)), max(2, int(stored.std() / 4))
    header.save_as(ward / "clipped.dcm")
    scale = max(stored.shape) / 256
    pad = (256 - np.array(stored.shape[::-1]) / scale) // 2  # the square is filled up at the shorter side
    box = np.array([x0, y0, x1, y1]) / scale + [*pad, *pad]
    table, bad = unmark_folder("membrane", told(box), ward, tmp_path / "out")
    after = dcmread(tmp_path / "out/clipped.dcm")
    assert not bad and table["markers"].tolist() == [1]
    assert (after.WindowCenter, after.WindowWidth, after.BitsStored) == (header.WindowCenter, header.WindowWidth, header.BitsStored)  # fmt: skip
    part = changed(stored, after.pixel_array)
    assert part[y0:y1, x0:x1].mean() > 0.99, "filled, although it couldn't be told from white on the display"
    part[y0 - 40 : y1 + 40, x0 - 40 : x1 + 40] = False
    assert not part.any()


@pytest.mark.parametrize("words, message", (
    (("detect", "nowhere"), "is missing"),
    (("inpaint", "nowhere", "--detector", "none.safetensors"), "is missing"),
))  # fmt: skip
def test_a_wrong_word_ends_in_one_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "--weights", "gone.safetensors"])
    assert done.exit_code == 2 and message in " ".join(done.output.split()) and "Traceback" not in done.output
    assert not list(tmp_path.iterdir())
