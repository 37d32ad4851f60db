"""Odd image files, drawn here: each with the pixels that it must be read as (PIL's own conversion), or what it is refused for."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SIDE = 48
RAMP = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / (2 * SIDE - 2)  # [SIDE, SIDE] in [0, 1]
GREY = np.rint(255 * RAMP).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], np.roll(GREY, 7, 1)], 2)
ALPHA = np.roll(GREY, 20, 0)
WIDE = np.rint(65535 * RAMP).astype(np.uint16)


@dataclass(frozen=True)
class Animal:
    """A file: its name, how it is written, the array that it must be read as (None: PIL's own), or a part of the refusal."""

    name: str
    write: Callable[[Path], Any]
    pixels: np.ndarray | None = None
    refused: str = ""


def pil(path: Path) -> np.ndarray:
    """Return what PIL alone makes of a file: transposed by EXIF, on white, grey [H, W] or RGB [H, W, 3]."""
    with open(path, "rb") as stream, Image.open(stream) as file:
        image = ImageOps.exif_transpose(file)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def save(array: np.ndarray, mode: str | None = None, **options: Any) -> Callable[[Path], Any]:
    """Return what writes an array, converted to ``mode``."""

    def write(path: Path) -> None:
        image = Image.fromarray(array)
        (image if mode is None else image.convert(mode)).save(path, **options)

    return write


def png(raw: np.ndarray, depth: int, kind: int, width: int = SIDE, height: int = SIDE, **chunks: bytes) -> Callable[[Path], Any]:
    """Return what writes a PNG by hand: ``raw`` uint8 [rows, bytes] as it is packed."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in raw))
    whole = b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    return lambda path: path.write_bytes(whole)


def tiff(pixels: np.ndarray, bits: int, sample: int = 1, photometric: int = 1, order: str = "<") -> Callable[[Path], Any]:
    """Return what writes an uncompressed grey TIFF by hand; ``sample`` 1 unsigned, 2 signed, 3 float."""
    data = pixels.tobytes()
    tags = [(256, SIDE), (257, SIDE), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, SIDE), (279, len(data))]
    tags += [(339, sample)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    whole = head + data + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)
    return lambda path: path.write_bytes(whole)


def turned(orientation: int, array: np.ndarray | None = None, mode: str | None = None, **options: Any) -> Callable[[Path], Any]:
    """Return what writes a picture with an EXIF orientation: by default a JPEG in colour."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(COLOUR if array is None else array, mode, quality=95, exif=exif, **options)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels [H, W] as the EXIF orientation says, by the standard's own words: where row 0 and column 0 of a file lie."""
    flipped = {2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.T, 6: array[::-1].T, 8: array.T[::-1]}
    return flipped.get(orientation, array[::-1, ::-1].T if orientation == 7 else array)


def without(write: Callable[[Path], Any], mark: bytes) -> Callable[[Path], Any]:
    """Return what writes a JPEG without its segment ``mark``."""

    def write_rest(path: Path) -> None:
        write(path)
        whole = path.read_bytes()
        at = whole.index(mark)
        path.write_bytes(whole[:at] + whole[at + 2 + int.from_bytes(whole[at + 2 : at + 4]) :])

    return write_rest


def frames(**options: Any) -> Callable[[Path], Any]:
    """Return what writes two pictures into one file."""
    return lambda path: Image.fromarray(COLOUR).save(path, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])], **options)


def cut(write: Callable[[Path], Any], share: float = 0.5) -> Callable[[Path], Any]:
    """Return what writes the first part of a file."""

    def write_part(path: Path) -> None:
        write(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return write_part


def _packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Return values [rows, columns] below 2^bits as bytes, the highest bits first."""
    spread = (values[..., None].astype(np.uint16) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1)


def _on_white(values: np.ndarray, clear: int) -> np.ndarray:
    """Return 8-bit grey of ``values`` uint16 where ``clear`` is transparent."""
    grey = np.rint(values / 257).astype(np.uint8)
    grey[values == clear] = 255
    return grey


def _jpeg_bytes() -> bytes:
    content = io.BytesIO()
    Image.fromarray(COLOUR).save(content, "JPEG")
    return content.getvalue()


def _link(path: Path) -> None:
    save(GREY)(path.with_name("behind-the-link.dat.png"))
    path.symlink_to("behind-the-link.dat.png")


BIG = np.stack([WIDE, WIDE[::-1], np.roll(WIDE, 7, 1)], 2)
FLOAT = RAMP.astype("<f4")
BROKEN = FLOAT.copy()
BROKEN[3, 3], BROKEN[4, 4] = np.nan, np.inf
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
DECODE, LARGE = "cannot be decoded", "pixels; scale it down|[0-9] pixels; at most"

ZOO = [
    Animal("grey.png", save(GREY)),
    Animal("grey.JPG", save(GREY, quality=90)),
    Animal("colour.bmp", save(COLOUR)),
    Animal("progressive.jpeg", save(COLOUR, progressive=True)),
    Animal("bit.png", save(GREY > 100)),
    Animal("two-bits.png", png(_packed(GREY >> 6, 2), 2, 0)),
    Animal("four-bits.png", png(_packed(GREY >> 4, 4), 4, 0)),
    Animal("palette.png", save(COLOUR, "P")),
    Animal("palette-clear.png", save(COLOUR, "P", transparency=3)),
    Animal("palette-alpha.png", save(COLOUR, "P", transparency=bytes(range(256)))),
    Animal("grey-clear.png", save(GREY, transparency=17)),
    Animal("bit-clear.png", save(GREY > 100, transparency=0)),
    Animal("colour-clear.png", save(COLOUR, transparency=(0, 255, 220))),
    Animal("two-bits-clear.png", png(_packed(GREY >> 6, 2), 2, 0, tRNS=b"\0\1"), np.where(GREY >> 6 == 1, 255, (GREY >> 6) * 85)),
    Animal("four-bits-clear.png", png(_packed(GREY >> 4, 4), 4, 0, tRNS=b"\0\3"), np.where(GREY >> 4 == 3, 255, (GREY >> 4) * 17)),
    Animal("grey-alpha.png", save(np.dstack([GREY, ALPHA]))),
    Animal("colour-alpha.png", save(np.dstack([COLOUR, ALPHA]))),
    Animal("colour-alpha.webp", save(np.dstack([COLOUR, ALPHA]), lossless=True)),
    Animal("colour-alpha.tif", save(np.dstack([COLOUR, ALPHA]))),
    Animal("wide.png", save(WIDE), np.rint(WIDE / 257)),
    Animal("wide.tif", tiff(WIDE.astype("<u2"), 16), np.rint(WIDE / 257)),
    Animal("wide-other-end.tif", tiff(WIDE.astype(">u2"), 16, order=">"), np.rint(WIDE / 257)),
    Animal("wide-clear.png", save(WIDE, transparency=int(WIDE[9, 9])), _on_white(WIDE, int(WIDE[9, 9]))),
    Animal("wide-black.png", save(0 * WIDE), 0 * GREY),
    Animal("wide-12.png", save(WIDE >> 4), refused="no pixel is above 4095 of 65535.*white_level=4095"),
    Animal("wide-14.tif", tiff((WIDE >> 2).astype("<u2"), 16), refused="no pixel is above 16383.*white_level=16383"),
    Animal("wide-8.png", save(WIDE >> 8), refused="no pixel is above 255 of 65535.*white_level=255"),
    Animal("declared-12.tif", tiff(_packed(WIDE >> 4, 12), 12), np.rint((WIDE >> 4) * (255 / 4095))),
    Animal("white-is-0.tif", tiff(GREY, 8, photometric=0)),
    Animal("wide-white-is-0.tif", tiff(WIDE.astype("<u2"), 16, photometric=0), refused="0 is white"),
    Animal("signed-8.tif", tiff((GREY // 2).astype("i1"), 8, 2), refused="signed 8-bit"),
    Animal("signed-16.tif", tiff((WIDE // 2).astype("<i2"), 16, 2), refused="integers from 0 to 32767"),
    Animal("below-0.tif", tiff((WIDE.astype("<i4") - 5), 32, 2), refused="integers from -5 to .*; black is 0: rescale"),
    Animal("unsigned-32.tif", tiff(WIDE.astype("<u4") * 65536, 32), refused="integers from"),
    Animal("float.tif", tiff(FLOAT, 32, 3), np.rint(255 * FLOAT.astype(np.float64))),
    Animal("float-255.tif", tiff(255 * FLOAT, 32, 3), refused="float values from 0 to 255.*white_level=255"),
    Animal("float-below-0.tif", tiff(2 * FLOAT - 1, 32, 3), refused="float values from -1 to 1.*rescale"),
    Animal("float-dark.tif", tiff(FLOAT / 16, 32, 3), refused="float grey of which no pixel is above 0.0625"),
    Animal("nan.tif", tiff(BROKEN, 32, 3), refused="2 of 2304 pixels are NaN or infinite"),
    Animal("double.tif", tiff(RAMP, 64, 3), refused="or a TIFF of a kind that is not read: want .*floats of 32"),
    Animal("half.tif", tiff(RAMP.astype("<f2"), 16, 3), refused=DECODE),
    Animal("wide-colour.png", png(BIG.astype(">u2").reshape(SIDE, -1), 16, 2), (BIG >> 8)),
    Animal("wide-colour-12.png", png((BIG >> 4).astype(">u2").reshape(SIDE, -1), 16, 2), refused="16-bit colour"),
    Animal("wide-colour-clear.png", png(BIG.astype(">u2").reshape(SIDE, -1), 16, 2, tRNS=b"\0" * 6), refused="one colour is"),
    Animal("wide-colour-alpha.png", png(np.dstack([BIG, WIDE]).astype(">u2").reshape(SIDE, -1), 16, 6)),
    Animal("wide-grey-alpha.png", png(np.dstack([WIDE, WIDE]).astype(">u2").reshape(SIDE, -1), 16, 4)),
    Animal("cmyk.jpg", save(COLOUR, "CMYK", quality=95)),
    Animal("cmyk.tif", save(COLOUR, "CMYK")),
    Animal("luma.tif", save(COLOUR, "YCbCr")),
    Animal("lab.tif", lambda path: Image.new("LAB", (SIDE, SIDE), (120, 128, 128)).save(path), refused="kind LAB"),
    *[Animal(f"turned-{n}.jpg", turned(n)) for n in range(1, 9)],
    *[Animal(f"turned-{n}.png", turned(n, np.dstack([COLOUR, ALPHA]))) for n in range(1, 9)],
    *[Animal(f"turned-{n}.webp", turned(n, lossless=True)) for n in range(1, 9)],
    *[Animal(f"turned-{n}.tif", save(COLOUR, tiffinfo={274: n})) for n in range(1, 9)],
    *[Animal(f"turned-wide-{n}.tif", save(WIDE, tiffinfo={274: n}), np.rint(upright(WIDE, n) / 257)) for n in range(1, 9)],
    Animal("turned-cmyk.jpg", turned(6, COLOUR, "CMYK")),
    Animal("turned-palette.png", turned(5, COLOUR, "P")),
    Animal("turned-9.jpg", turned(9)),
    Animal("cmyk-not-adobes.jpg", without(save(COLOUR, "CMYK", quality=95), b"\xff\xee")),
    Animal("palette.tif", save(COLOUR, "P")),
    Animal("palette-clear.webp-by-content.png", save(np.dstack([COLOUR, ALPHA]), format="WEBP", lossless=True)),
    Animal("bit-fax.tif", save(GREY > 100, compression="group4")),
    Animal("grey-alpha.tif", save(np.dstack([GREY, ALPHA]))),
    Animal("colour-lzw.tif", save(COLOUR, compression="tiff_lzw")),
    Animal("colour-jpeg.tif", save(COLOUR, "YCbCr", compression="jpeg")),
    Animal("colour-alpha.bmp", save(np.dstack([COLOUR, ALPHA]))),
    Animal("portable-by-content.png", lambda path: path.write_bytes(b"P5 48 48 65535\n" + WIDE.astype(">u2").tobytes()),
           np.rint(WIDE / 257)),
    Animal("wide-wavelets-by-content.png", save(WIDE, format="JPEG2000"), np.rint(WIDE / 257)),
    Animal("after-the-end.png", lambda path: (save(COLOUR)(path), path.write_bytes(path.read_bytes() + b"more" * 99))),
    Animal("one-frame.webp", save(COLOUR, save_all=True, lossless=True)),
    Animal("still-and-moving.png", frames(default_image=True), refused="2 frames"),
    Animal("radiance-by-content.png", lambda path: path.write_bytes(b"#?RADIANCE\n\n-Y 4 +X 4\n" + bytes(64)), refused=DECODE),
    Animal("cut.webp", cut(save(COLOUR, lossless=True)), refused=DECODE),
    Animal("cut.bmp", cut(save(COLOUR)), refused=DECODE),
    Animal("pages.tif", frames(), refused="2 pages"),
    Animal("moving.webp", frames(lossless=True), refused="2 frames"),
    Animal("moving.png", frames(), refused="2 frames"),
    Animal("moving-by-content.png", frames(format="GIF"), refused="2 frames"),
    Animal("still-by-content.png", save(COLOUR, "P", format="GIF")),
    Animal("phone.jpg", frames(format="MPO", quality=95)),
    Animal("wavelets-by-content.png", save(COLOUR, format="JPEG2000")),
    Animal("jpeg-by-content.png", save(COLOUR, format="JPEG")),
    Animal("postscript.png", lambda path: path.write_bytes(EPS), refused=DECODE),
    Animal("cut.png", cut(save(COLOUR)), refused=DECODE),
    Animal("cut.jpg", cut(save(COLOUR)), refused=DECODE),
    Animal("cut.tif", cut(save(COLOUR)), refused=DECODE),
    Animal("empty.png", lambda path: path.write_bytes(b""), refused=DECODE),
    Animal("words.png", lambda path: path.write_text("not an image"), refused=DECODE),
    Animal("odd-exif.jpg", lambda path: path.write_bytes(_jpeg_bytes().replace(b"JFIF", b"JFI\0", 1))),
    Animal("bomb.png", png(np.zeros((1, 1), np.uint8), 8, 0, 20_000, 20_000), refused=LARGE),
    Animal("too-large.png", png(np.zeros((1, 1), np.uint8), 8, 0, 10_000, 9_000), refused=LARGE),
    Animal("pipe.png", os.mkfifo, refused="a FIFO, socket or device"),
    Animal("folder.png", Path.mkdir, refused="is a folder"),
    Animal("dead.png", lambda path: path.symlink_to("/annex/gone.png"), refused="is a link to /annex/gone.png, which does not"),
    Animal("circle.png", lambda path: path.symlink_to(path.name), refused="cannot be read|does not exist"),
    Animal("link.png", _link),
    Animal("brackets[1] and 50 % $x$.png", save(GREY)),
    Animal("Ünï-код-图.PNG", save(COLOUR)),
]  # fmt: skip
