"""Fetch the Debian font packages that the shipped generators were trained on and unpack them, without installing any.

Usage: python tools/unpack_fonts.py FOLDER [--scripts] [PACKAGE ...]; --scripts adds those of the broad generator. Needs Debian or
Ubuntu with apt's package lists in place (`apt-get update`). Each package ends in FOLDER/PACKAGE; FOLDER/packages.json records its
version and licence text.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = """
fonts-adf-accanthis fonts-adf-baskervald fonts-adf-berenis fonts-adf-gillius fonts-adf-irianis fonts-adf-libris
fonts-adf-mekanus fonts-adf-romande fonts-adf-switzera fonts-adf-universalis fonts-adf-verana fonts-anonymous-pro
fonts-averia-gwf fonts-averia-sans-gwf fonts-averia-serif-gwf fonts-b612 fonts-cabin fonts-cantarell fonts-cmu
fonts-comfortaa fonts-comic-neue fonts-courier-prime fonts-crosextra-caladea fonts-crosextra-carlito fonts-croscore
fonts-dejavu-core fonts-dejavu-extra fonts-dkg-handwriting fonts-dosis fonts-ebgaramond fonts-ecolier-court
fonts-essays1743 fonts-fantasque-sans fonts-firacode fonts-freefont-ttf fonts-gfs-artemisia fonts-gfs-didot
fonts-gfs-neohellenic fonts-go fonts-hack-ttf fonts-humor-sans fonts-inconsolata fonts-jetbrains-mono fonts-jura
fonts-kristi fonts-lato fonts-liberation fonts-linuxlibertine fonts-lobstertwo fonts-noto-core fonts-noto-mono
fonts-oflb-asana-math fonts-okolaks fonts-open-sans fonts-opendyslexic fonts-paratype fonts-play fonts-quicksand
fonts-roboto-unhinted fonts-roboto-slab fonts-sil-andika fonts-sil-charis fonts-sil-gentiumplus fonts-sjfonts fonts-stix
fonts-texgyre fonts-tuffy fonts-ubuntu-title fonts-vollkorn fonts-yanone-kaffeesatz
"""
SCRIPTS = """
culmus fonts-baekmuk fonts-beng-extra fonts-bpg-georgian fonts-deva-extra fonts-dotgothic16 fonts-farsiweb fonts-gargi
fonts-gfs-olga fonts-gfs-porson fonts-gfs-solomos fonts-gfs-theokritos fonts-gujr-extra fonts-hosny-amiri
fonts-ipafont-gothic fonts-ipafont-mincho fonts-junicode fonts-kacst fonts-khmeros fonts-kiloji fonts-klee
fonts-lg-aboriginal fonts-lohit-beng-bengali fonts-lohit-deva fonts-lohit-gujr fonts-lohit-taml fonts-motoya-l-cedar
fonts-motoya-l-maruberi fonts-mph-2b-damase fonts-mplus fonts-nakula fonts-nanum fonts-noto-extra fonts-reggae
fonts-rocknroll fonts-sahadeva fonts-samyak-deva fonts-samyak-gujr fonts-samyak-taml fonts-sarai fonts-sawarabi-gothic
fonts-sawarabi-mincho fonts-senamirmir-washra fonts-seto fonts-sil-abyssinica fonts-sil-annapurna fonts-sil-ezra
fonts-sil-harmattan fonts-sil-lateef fonts-sil-mondulkiri fonts-sil-scheherazade fonts-sil-sophia-nubian fonts-stick
fonts-tagbanwa fonts-thai-tlwg-ttf fonts-tlwg-garuda-ttf fonts-tlwg-kinnari-ttf fonts-tlwg-loma-ttf
fonts-tlwg-mono-ttf fonts-tlwg-norasi-ttf fonts-tlwg-purisa-ttf fonts-tlwg-sawasdee-ttf fonts-tlwg-umpush-ttf
fonts-tlwg-waree-ttf fonts-unfonts-core fonts-vlgothic fonts-yusei-magic
"""
"""Fonts of other scripts, which the broad generator was trained on besides."""
LICENCE = re.compile(r"^License:\s*(\S.*)$", re.MULTILINE)


def licences(copyright_file: Path) -> list[str]:
    """Return the short licence names a Debian copyright file declares, or ["see copyright file"] where it declares none."""
    text = copyright_file.read_text(encoding="utf-8", errors="replace") if copyright_file.is_file() else ""
    return sorted({match.strip() for match in LICENCE.findall(text)}) or ["see copyright file"]


def unpack(package: str, folder: Path) -> dict[str, object]:
    """Fetch one package by apt, unpack it into folder/package and return its record; CalledProcessError if apt fails."""
    target = folder / package
    with tempfile.TemporaryDirectory(dir=folder) as work:
        subprocess.run(["apt-get", "-qq", "download", package], cwd=work, check=True)
        archive = next(Path(work).glob("*.deb"))
        tree = Path(work) / "tree"
        subprocess.run(["dpkg", "-x", archive, tree], check=True)
        version = subprocess.run(["dpkg-deb", "-f", archive, "Version"], check=True, capture_output=True, text=True)
        shutil.rmtree(target, ignore_errors=True)
        tree.rename(target)
    notice = target / "usr/share/doc" / package / "copyright"
    return {"version": version.stdout.strip(), "licences": licences(notice), "copyright": str(notice.relative_to(folder))}


def main() -> int:
    """Unpack every package; report those that apt does not know, and fail only when none could be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("packages", nargs="*", help="Debian packages; default those of the digits and letters")
    parser.add_argument("--scripts", action="store_true", help="those of the broad generator too")
    arguments = parser.parse_args()
    packages = [*(arguments.packages or PACKAGES.split()), *(SCRIPTS.split() if arguments.scripts else ())]
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "packages.json"
    known: dict[str, object] = json.loads(record.read_text()) if record.is_file() else {}
    missing = []
    for package in packages:
        if package in known and (folder / package).is_dir():
            continue
        try:
            known[package] = unpack(package, folder)
        except subprocess.CalledProcessError as error:
            missing.append(package)
            print(f"{package}: {error}", file=sys.stderr)
            continue
        record.write_text(json.dumps(known, indent=2) + "\n")
        print(package, flush=True)
    print(f"{len(known)} packages in {folder}" + (f"; not found: {', '.join(missing)}" if missing else ""))
    return 0 if known else 1


if __name__ == "__main__":
    sys.exit(main())
