"""DICOM files into 8-bit grey or colour, by pydicom (extra ``[medical]``). Of a header only what says how pixels look is parsed.

Nothing of a header is logged, shown in an error or kept; who a patient is, is read by :func:`patient` alone, and only as a hash.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mpssl_fed.data.eight_bits import DARK, NotReadError, level
from mpssl_fed.data.preparation import said
from mpssl_fed.data.subjects import MISSING, likeness
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown

SUFFIXES = (".dcm", ".dicom")
PATIENT_ID = "dicom-patient-id"
"""The value of ``data.subjects`` that asks for patients."""

GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelData", "FloatPixelData", "DoubleFloatPixelData", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
NOBODY = MISSING | {"anonymous", "anonymized", "anonymised", "anon", "unknown", "removed", "deidentified"}
"""Patient ids that name nobody."""

WINDOWED = "data.window ({}) is for the values of grey DICOM files alone: give such files, or train without a window"
CURE = "decompress it (gdcmconv --raw, dcmdjpeg)"


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins with ``head``, of 132 bytes or more, is a DICOM file (PS3.10, section 7.1)."""
    return head[128:132] == b"DICM"


def dicom_shape(content: bytes, most_pixels: int) -> tuple[int, int]:
    """Return (width, height). Raises NotReadError as :func:`dicom_image` does for a header that is refused."""
    with _refusing():
        data = _dataset(content, most_pixels)
        return int(data.Columns), int(data.Rows)


def dicom_image(
    content: bytes, most_pixels: int, white_level: float | None = None, window: tuple[float, float] | None = None
) -> Image.Image:
    """Return the image of a DICOM file in mode L or RGB.

    Grey: stored values are rescaled (slope and intercept, or the modality's table), then the file's first window applies, else its
    table, else the full range of the bits that it declares. ``white_level`` takes their place: 0 is black and it is white; so does
    ``window``, (center, width) in the units of rescaled values, always by the function LINEAR. Of MONOCHROME1 the smallest value
    is white. Padding is black. Colour of 8 bits becomes RGB. Formulas: pydicom's, of PS3.3 C.11.1 and C.11.2. Orientation,
    overlays and the aspect of pixels are not read. Raises NotReadError for several frames, other photometric interpretations, a
    transfer syntax without a decoder here, floats, pixels out of ``white_level``, colour with a ``window``, and grey without a
    window that fills less than a quarter of its bits, which would be a flat grey.
    """
    with _refusing():
        data = _dataset(content, most_pixels)
        if window is not None and data.SamplesPerPixel == 3:
            raise NotReadError(f"a DICOM file of colour; {WINDOWED.format(said(window))}")
        from pydicom.pixels import pixel_array

        pixels = np.asarray(pixel_array(data))
        if data.SamplesPerPixel == 3:
            return Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))
        return Image.fromarray(_grey(data, pixels, white_level, window))


def patient(path: Path) -> str:
    """Return a name for the patient of a DICOM file: the first 24 hex digits of the SHA-256 of id and issuer.

    Blanks, case, script and the form of a number do not count (:func:`mpssl_fed.data.subjects.likeness`): ids that look alike are
    one person, which protects both together. Raises UserError, without the id, for a file that is no DICOM or names nobody.
    """
    try:
        with open(path, "rb") as file:
            if not is_dicom(file.read(132)):
                raise NotReadError(f"no DICOM file; data.subjects={PATIENT_ID} is for such files alone")
            file.seek(0)
            with _refusing():
                found = _read(file, ["PatientID", "IssuerOfPatientID"], stop_before_pixels=True)
                who, issuer = (_text(found, tag) for tag in (0x00100020, 0x00100021))
        if who.casefold() in NOBODY:
            raise NotReadError(f"its patient id (0010,0020) names nobody, so data.subjects={PATIENT_ID} cannot be")
    except NotReadError as error:
        raise UserError(f"image file {shown(path)}: {error}") from None
    except OSError as error:
        raise UserError(f"image file {shown(path)} cannot be read ({error.strerror}); let this user read it") from error
    return hashlib.sha256(f"{likeness(issuer)}\0{likeness(who)}".encode()).hexdigest()[:24]


def _text(data: Any, tag: int) -> str:
    value = data.get_item(tag).value if tag in data else b""  # not decoded: pydicom would warn of its value
    raw = value if isinstance(value, bytes) else str(value or "").encode()
    return raw.decode("utf-8", "replace").strip(" \0")


def _read(file: Any, tags: Sequence[str], **options: Any) -> Any:
    if find_spec("pydicom") is None:
        raise NotReadError("a DICOM file; pip install 'mpssl-fed[medical]' to read it")
    from pydicom import dcmread

    return dcmread(file, specific_tags=list(tags), **options)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever pydicom raises into NotReadError, without its text, which may hold a value of the header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (NotReadError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  broken bytes raise nearly every kind of error
        raise NotReadError(f"a DICOM file that cannot be decoded ({type(error).__name__}); replace or remove it") from None


def _dataset(content: bytes, most_pixels: int) -> Any:
    """Return what is needed of the header, checked; the pixels are not decoded yet."""
    data = _read(io.BytesIO(content), TAGS)
    if "PixelData" not in data:
        kind = (
            "floats" if "FloatPixelData" in data or "DoubleFloatPixelData" in data else "no pixels (a report, an index or a plan?)"
        )
        raise NotReadError(f"a DICOM file of {kind}; want integers of up to 16 bits")
    missing = [
        tag for tag in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored") if not data.get(tag)
    ]
    if missing:
        raise NotReadError(f"a DICOM file that does not say its {missing[0]}; write it anew")
    if int(data.Rows) * int(data.Columns) > most_pixels:
        raise NotReadError(f"{data.Columns} x {data.Rows} pixels; at most {most_pixels:,} are read. Scale it down, or cut it")
    if (frames := int(data.get("NumberOfFrames") or 1)) > 1:
        raise NotReadError(f"{frames} frames; one image a file is read: save the one that matters by itself")
    _check_kind(data)
    _check_syntax(data)
    return data


def _check_kind(data: Any) -> None:
    kind, samples, bits = str(data.PhotometricInterpretation), int(data.SamplesPerPixel), int(data.BitsStored)
    if (kind, samples) not in [(one, 1) for one in GREY] + [(one, 3) for one in COLOUR]:
        raise NotReadError(
            f"photometric interpretation {kind[:16]!a} with {samples} sample(s) a pixel; want MONOCHROME1 or 2, RGB or YBR: "
            "convert it"
        )
    if bits > 16 or (samples == 3 and (bits != 8 or data.get("PixelRepresentation"))):
        raise NotReadError(f"{kind} of {bits} bits; want at most {'8, unsigned' if samples == 3 else '16'}: convert it")
    shape = data.get("PresentationLUTShape")
    if kind in GREY and shape in ("IDENTITY", "INVERSE") and (shape == "INVERSE") != (kind == "MONOCHROME1"):
        raise NotReadError(f"{kind} with a presentation LUT shape {shape}: which value is white? Correct one of the two")


def _check_syntax(data: Any) -> None:
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise NotReadError("a DICOM file without a transfer syntax; write it anew")
    if not syntax.is_encapsulated:
        return
    from pydicom.pixels import get_decoder

    name = f"transfer syntax {syntax.name if not syntax.is_private else 'of one maker'}"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise NotReadError(f"{name}, of which there is no decoder; {CURE}") from None
    if not available:
        raise NotReadError(f"{name}, whose decoder is not installed; pip install 'pylibjpeg[all]', or {CURE}")


def _grey(data: Any, pixels: NDArray[Any], white_level: float | None, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Return stored values [H, W] as grey uint8 [H, W]."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

    values = np.asarray(apply_modality_lut(pixels, data)).astype(np.float64)
    black, white = _full_range(data)
    if white_level is not None:
        black, white = 0.0, float(white_level)
        shown_values = values[~_padding(data, pixels)]
        low, high = (float(shown_values.min()), float(shown_values.max())) if shown_values.size else (0.0, 0.0)
        if low < black or high > white:
            raise NotReadError(f"values from {low:g} to {high:g}, where 0 is black and {white:g} white; leave the white level out")
    elif window is not None:
        values, black, white = _windowed(values, *window), 0.0, 1.0
    elif data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        values = apply_windowing(values, data)
    elif data.get("VOILUTSequence"):
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        if not 10 <= bits <= 16:
            raise NotReadError(f"a VOI table of {bits} bits and no window; want 10 to 16: give the file a window")
        values, black, white = np.asarray(apply_voi_lut(values, data)).astype(np.float64), 0.0, 2.0**bits - 1
    elif int(data.BitsStored) > 8:
        _check_filled(values[~_padding(data, pixels)], black, white)
    out = np.clip(np.rint((values - black) * (255 / (white - black))), 0, 255).astype(np.uint8)
    out = 255 - out if data.PhotometricInterpretation == "MONOCHROME1" else out
    out[_padding(data, pixels)] = 0
    return np.ascontiguousarray(out)


def _windowed(values: NDArray[np.float64], center: float, width: float) -> NDArray[np.float64]:
    """Return values [H, W] in [0, 1] by the function LINEAR (PS3.3 C.11.2.1.2.1), whatever function a file names for its own."""
    above = values - (center - 0.5)
    return np.clip(above / (width - 1) + 0.5, 0, 1) if width > 1 else (above > 0).astype(np.float64)


def _full_range(data: Any) -> tuple[float, float]:
    """Return the values of black and white of the bits that a file declares, once rescaled (PS3.3 C.11.2.1.2.2)."""
    bits, signed = int(data.BitsStored), bool(data.get("PixelRepresentation"))
    if data.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if data.get("RescaleSlope") is None or data.get("RescaleIntercept") is None:
        return low, high
    slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
    if not (np.isfinite(slope) and np.isfinite(intercept) and slope > 0):
        raise NotReadError("a rescale slope that is not above 0; correct it")
    return low * slope + intercept, high * slope + intercept


def _check_filled(values: NDArray[np.float64], black: float, white: float) -> None:
    if values.size and 0 < values.max() - values.min() < DARK * (white - black):
        raise NotReadError(
            f"grey without a window, from {values.min():g} to {values.max():g} of {black:g} to {white:g}, so it would be nearly "
            f"flat; give the file a window (0028,1050), or say what white is: {level(float(values.max()))}"
        )


def _padding(data: Any, pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels [H, W] lie outside of the picture, by the stored values that the file names for it."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(pixels.shape, dtype=bool)
    ends = sorted((int(value), int(data.get("PixelPaddingRangeLimit", value))))
    return (pixels >= ends[0]) & (pixels <= ends[1])
