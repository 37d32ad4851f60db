"""DICOM: grey by the standard's own formulas, colour, what is refused, and that nothing of a patient gets out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mpssl_fed
from mpssl_fed.data import decode
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.decode import read_image
from mpssl_fed.data.folder import load_site_folder
from mpssl_fed.data.formats.dicom import patient
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.trained import Trained, evaluate_folder, predict

pydicom = pytest.importorskip("pydicom", reason="the extra [medical] is not installed: make test-extras")

SIDE = 24
RAMP = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
NAME, NUMBER = "Smith^Jane", "SECRET-0815"


def scan(pixels: np.ndarray = RAMP, bits: int = 12, **header: Any) -> Any:
    """Return a data set of one grey or RGB image, with what ``header`` changes or (None) takes away."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    colour = pixels.ndim == 3
    fields = {
        "PatientName": NAME, "PatientID": NUMBER, "Rows": pixels.shape[0], "Columns": pixels.shape[1],
        "SamplesPerPixel": 3 if colour else 1, "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8 if colour or bits <= 8 else 16, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.min() < 0),
    } | ({"PlanarConfiguration": 0} if colour else {})  # fmt: skip
    for key, value in (fields | header).items():
        if value is not None:
            setattr(data, key, value)
    data.PixelData = pixels.astype(f"<{'i' if pixels.min() < 0 else 'u'}{data.BitsAllocated // 8}").tobytes()
    return data


def written(folder: Path, data: Any, name: str = "x.dcm") -> Path:
    data.save_as(folder / name, enforce_file_format=True)
    return folder / name


def read(file: Path, size: int = SIDE, **how: Any) -> np.ndarray:
    return read_image(file, size, Preparation(**how)).permute(1, 2, 0).squeeze(-1).numpy()


def linear(x: float, centre: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1, the pseudo-code, with output 0..255."""
    if x <= centre - 0.5 - (width - 1) / 2:
        return 0
    if x > centre - 0.5 + (width - 1) / 2:
        return 255
    return ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255


CT = {"RescaleSlope": 2, "RescaleIntercept": -1024}
GREY: list[tuple[str, np.ndarray, int, dict[str, Any], Callable[[float], float]]] = [
    ("window", RAMP, 12, {**CT, "WindowCenter": -600, "WindowWidth": 300}, lambda v: linear(2 * v - 1024, -600, 300)),
    ("first of two", RAMP, 12, {**CT, "WindowCenter": [-600, 40], "WindowWidth": [300, 80]},
     lambda v: linear(2 * v - 1024, -600, 300)),
    ("signed", RAMP - 300, 16, {"WindowCenter": 0, "WindowWidth": 200}, lambda v: linear(v, 0, 200)),
    ("exact", RAMP, 12, {"WindowCenter": 300, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"},
     lambda v: 255 * min(max((v - 300) / 200 + 0.5, 0), 1)),
    ("sigmoid", RAMP, 12, {"WindowCenter": 300, "WindowWidth": 200, "VOILUTFunction": "SIGMOID"},
     lambda v: 255 / (1 + math.exp(-4 * (v - 300) / 200))),
    ("full range", 7 * RAMP, 12, {}, lambda v: v * 255 / 4095),
    ("full range, rescaled", 7 * RAMP, 12, CT, lambda v: v * 255 / 4095),
    ("full range, signed", 7 * RAMP - 2048, 12, {}, lambda v: (v + 2048) * 255 / 4095),
    ("8 bits", RAMP % 50, 8, {}, lambda v: v),
    ("1 is white", 7 * RAMP, 12, {"PhotometricInterpretation": "MONOCHROME1"}, lambda v: 255 - round(v * 255 / 4095)),
    ("padding", 7 * RAMP, 12, {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0},
     lambda v: 255 - round(v * 255 / 4095) if v else 0),
    ("padding, a range", 7 * RAMP, 12, {"PixelPaddingValue": 4025, "PixelPaddingRangeLimit": 4000},
     lambda v: v * 255 / 4095 if v < 4000 else 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pixels", "bits", "header", "formula"), GREY, ids=[case[0] for case in GREY])
def test_grey_is_the_standards(
    name: str, pixels: np.ndarray, bits: int, header: dict[str, Any], formula: Any, tmp_path: Path
) -> None:
    file = written(tmp_path, scan(pixels, bits, **header))
    expected = np.rint(np.vectorize(lambda v: float(formula(v)))(pixels))
    np.testing.assert_allclose(read(file), expected, atol=1 if name == "sigmoid" else 0.5)
    assert len(read_image(file, SIDE)) == 1


def test_a_table_and_a_white_level(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [576, 0, 10], [1023 - v for v in range(576)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    np.testing.assert_array_equal(read(written(tmp_path, scan(VOILUTSequence=[table]))), np.rint((1023 - RAMP) * 255 / 1023))
    window = {"WindowCenter": 40, "WindowWidth": 80}
    np.testing.assert_array_equal(read(written(tmp_path, scan(**window)), white_level=1000), np.rint(RAMP * 0.255))
    with pytest.raises(UserError, match=r"x\.dcm: values from -5 to 570, where 0 is black and 1000 white"):
        read(written(tmp_path, scan(RAMP - 5)), white_level=1000)


def test_colour_and_compressed(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(written(tmp_path, scan(colour, 8))), colour)
    luma = np.asarray(Image.fromarray(colour).convert("YCbCr"))
    back = read(written(tmp_path, scan(luma, 8, PhotometricInterpretation="YBR_FULL"))).astype(int)
    assert np.abs(back - np.asarray(Image.fromarray(luma, "YCbCr").convert("RGB"))).max() <= 2
    for pixels, bits in ((colour, 8), (7 * RAMP, 12)):
        plain, packed = scan(pixels, bits), scan(pixels, bits)
        packed.compress(pydicom.uid.RLELossless)
        np.testing.assert_array_equal(read(written(tmp_path, plain)), read(written(tmp_path, packed)))


def _jpeg(uid: str) -> Any:
    from pydicom.encaps import encapsulate

    data = scan(RAMP % 256, 8)
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = uid
    return data


def _floats() -> Any:
    data = scan()
    del data.PixelData
    data.FloatPixelData = RAMP.astype("<f4").tobytes()
    return data


def _without(*tags: str) -> Any:
    data = scan()
    for tag in tags:
        delattr(data, tag)
    return data


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: scan(NumberOfFrames=3), "3 frames; one image a file"),
    (lambda: scan(PhotometricInterpretation="PALETTE COLOR"), "'PALETTE COLOR' with 1 sample"),
    (lambda: scan(SamplesPerPixel=3), "'MONOCHROME2' with 3 sample"),
    (lambda: scan(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"), "which value is white"),
    (lambda: scan(BitsStored=32, BitsAllocated=32), "MONOCHROME2 of 32 bits"),
    (lambda: scan(RescaleSlope=-1, RescaleIntercept=0), "slope that is not above 0"),
    (lambda: scan(RAMP, 16), "grey without a window, from 0 to 575 of 0 to 65535"),
    (lambda: scan(Rows=20_000, Columns=20_000), "20000 x 20000 pixels"),
    (lambda: _without("PixelData"), "of no pixels"),
    (lambda: _without("BitsStored"), "does not say its BitsStored"),
    (_floats, "a DICOM file of floats"),
    (lambda: _jpeg("1.2.840.10008.1.2.4.70"), "JPEG Lossless.*pip install 'pylibjpeg.*gdcmconv"),
    (lambda: _jpeg("1.2.840.10008.1.2.4.100"), "of which there is no decoder"),
]


@pytest.mark.parametrize(("make", "text"), REFUSED, ids=[text[:24] for _, text in REFUSED])
def test_what_cannot_be_read_is_refused_by_name(make: Callable[[], Any], text: str, tmp_path: Path, capfd: Any) -> None:
    file = written(tmp_path, make())
    with pytest.raises(UserError, match=r"image file .*x\.dcm: .*" + text) as refusal:
        read(file)
    for secret in (NAME, NUMBER, "Smith"):
        assert secret not in f"{refusal.value} {refusal.value.__cause__} {capfd.readouterr()}"


def test_cut_short_or_no_dicom(tmp_path: Path) -> None:
    whole = written(tmp_path, scan()).read_bytes()
    for name, content in (("half.dcm", whole[: len(whole) // 2]), ("head.dcm", whole[:150]), ("bare.dcm", whole[132:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    (tmp_path / "scan.png").write_bytes(whole)  # by its content
    assert read(tmp_path / "scan.png", white_level=575).max() == 255


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_a_spoilt_file_is_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    body = bytearray(written(tmp_path, scan(7 * RAMP, **CT, WindowCenter=1, WindowWidth=9)).read_bytes())
    at = data.draw(st.integers(132, 700))
    body[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(min_size=1, max_size=6))
    (tmp_path / "y.dcm").write_bytes(body)
    try:
        assert read_image(tmp_path / "y.dcm", 16).shape[1:] == (16, 16)
    except UserError as error:
        assert NUMBER not in str(error)  # noqa: PT017
        assert "y.dcm" in str(error)  # noqa: PT017


def cohort(folder: Path, ids: tuple[str, ...]) -> Path:
    """Write ``folder/CLASS/*.dcm``: of each person an image of each class."""
    for number, (who, label) in enumerate((who, label) for who in ids for label in ("cat", "dog")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 4096, (16, 16))
        written(folder / label, scan(pixels, PatientID=who), f"{number}.dcm")
    return folder


def test_patients_are_subjects_where_asked_and_stay_unknown(tmp_path: Path, capfd: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    people = [f"{NUMBER}-{n}" for n in range(6)]
    root = cohort(tmp_path / "own" / "train", (*people, f" {people[0].lower()} ")).parent
    assert load_dataset("image-folder", root, 16).train.subjects is None
    data = load_dataset("image-folder", root, 16, subjects="dicom-patient-id")
    assert len({*(data.train.subjects or ()), *(data.test.subjects or ())}) == 6
    assert not set(data.train.subjects or ()) & set(data.test.subjects or ())
    site = load_site_folder(root / "train", ("cat", "dog"), 16, 1, "dicom-patient-id")
    assert len(set(site.subjects or ())) == 6
    mpssl_fed.simulate(
        "datasets/image-folder", f"data.root={root}", "data.subjects=dicom-patient-id", "data.labels_per_class=null",
        "data.label_fraction=1", "federation.sites=2", "federation.rounds=1", "federation.local_steps=1", "method.name=base",
        "model.name=hog", "warm_start.part=none", output=tmp_path / "run",
    )  # fmt: skip
    everything = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    for secret in (NUMBER, NUMBER.lower(), NAME):
        assert secret not in f"{capfd.readouterr()} {caplog.text} {site}"
        assert secret.encode() not in everything


def test_who_has_no_patient_id(tmp_path: Path) -> None:
    for who in ("", "ANONYMOUS", "nan"):
        file = written(tmp_path, scan(PatientID=who))
        with pytest.raises(UserError, match=r"x\.dcm: its patient id \(0010,0020\) names nobody"):
            patient(file)
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png: no DICOM file; data\.subjects=dicom-patient-id"):
        patient(tmp_path / "x.png")
    assert patient(written(tmp_path, scan(IssuerOfPatientID="Basel"))) != patient(written(tmp_path, scan(IssuerOfPatientID="Lyon")))


def test_predict_and_evaluate_read_it_alike(tmp_path: Path) -> None:
    folder = cohort(tmp_path / "all", ("a", "b"))
    trained = Trained(build_classifier(Architecture("pixels", ("cat", "dog"), 1, 16)).eval(), Path("model.safetensors"))
    assert evaluate_folder(trained, folder, subjects="dicom-patient-id").images == 4
    assert len(list(predict(trained, [folder]))) == 4
    small = Trained(trained.classifier, trained.file, Preparation(pads_28=True))
    assert small.read([folder / "cat" / "0.dcm"]).shape == (1, 1, 16, 16)
    assert decode.has_side(folder / "cat" / "0.dcm", 16)
