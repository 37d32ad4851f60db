"""A simulation's shares as separate private folders, so that deployed sites hold what simulated ones would have held."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation import parts
from mpssl_fed.files import write_atomic

LISTING = "labels.csv"


def write_share(folder: Path, config: Config, site: int) -> Path:
    """Write the labelled images of ``site`` as PNG files and a CSV list in the order of the share; return the CSV's path.

    Lossless: :func:`mpssl_fed.data.folder.load_site_csv` returns the very same bytes in order. Each file also holds its own
    name, since equal pixels may come from different files, and files of equal bytes would count as one image.
    """
    classes, images = parts.task(config).classes, parts.labelled(config, site)
    folder.mkdir(parents=True, mode=0o700)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("path", "label") if images.subjects is None else ("path", "label", "subject"))
    for i in range(len(images)):
        name = f"{i:06d}.png"
        pixels = images.x[i].permute(1, 2, 0).squeeze(-1).numpy()  # [C, S, S] -> [S, S(, 3)]
        own = PngInfo()
        own.add_text("image", name)
        Image.fromarray(pixels).save(folder / name, pnginfo=own)
        writer.writerow([name, classes[int(images.y[i])], *_subject(images, i)])
    return write_atomic(folder / LISTING, rows.getvalue(), mode=0o600)


def _subject(images: Images, i: int) -> tuple[str, ...]:
    return () if images.subjects is None else (images.subjects[i],)
