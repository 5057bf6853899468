"""Repositories of the Hugging Face hub: downloaded at a revision, checked byte for byte.

A download is a folder in the cache that is whole only when it has its marker, which is written
last. What was cut is taken up where it ended: a file is NAME.part until all of it is there. With
`$HARRIER_EDGE_OFFLINE` or `$HF_HUB_OFFLINE` no socket is opened, nor for what is there already.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from harrier_edge.errors import DownloadError, UsageError
from harrier_edge.foreign import FLOAT, choose_graph, foreign_files, foreign_graphs
from harrier_edge.foreign import FOLDER as FOREIGN
from harrier_edge.package import is_name, sha256_of
from harrier_edge.places import cache_folder, lacking_space
from harrier_edge.spec import MANIFEST_NAME, FileRecord

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

MARKER = ".whole.json"
ATTEMPTS = 5
BACKOFF_S = 1.0  # before the second attempt; doubled for each after it
LONGEST_WAIT_S = 60.0
SPARE_BYTES = 64 * 2**20  # of the disk, for everything small

# Of a checkpoint's repository; other weights (OpenVINO, PyTorch's pickles) stay there, and so does
# ONNX, but where there is nothing else.
_CHECKPOINT_FILES = ("*.json", "*.safetensors", "LICENSE*", "LICENCE*")
_MODULE_FILES = ("[0-9]_*/config.json", "[0-9]_*/*.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_REFUSED = (401, 403, 404)  # asking again does not help

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository as the hub tells of it."""

    name: str
    size: int  # bytes
    sha256: str | None  # of large files
    git_sha1: str | None  # of small ones, git's: over a header and the bytes


@dataclass(frozen=True)
class Download:
    """A repository at a commit, on this disk."""

    folder: Path
    repository: str
    revision: str  # the commit

    @property
    def is_package(self) -> bool:
        """Whether it is a model package already, not a checkpoint to export."""
        return (self.folder / MANIFEST_NAME).is_file()

    @property
    def is_foreign(self) -> bool:
        """Whether it is an ONNX export of others; see `foreign`."""
        return (self.folder / FOREIGN).is_dir()


def is_offline() -> bool:
    """Whether the user forbids the network."""
    values = (os.environ.get(name, "") for name in ("HARRIER_EDGE_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


def download(
    repository: str,
    revision: str,
    *,
    precision: str | None = None,
    pinned: Mapping[str, FileRecord] | None = None,
    room_for: Callable[[int], int] = lambda size: 0,
    quiet: bool = False,
) -> Download:
    """Have `repository` ("owner/name") at `revision` (a commit, branch or tag) on this disk.

    Of an ONNX export of others only the graph in `precision` is taken, by default float32.

    Sizes and digests are checked against what the hub tells and against `pinned`, both before
    anything is parsed. A file that comes out wrong is downloaded once more; a connection that
    fails is tried five times. `room_for` says how many bytes a download of so many bytes needs
    besides, for what is made of it. Progress goes to stderr unless `quiet`.

    Raises UsageError for a malformed name, and DownloadError where the repository cannot be had.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise UsageError(f"{repository!r} is not a repository of the hub; wanted OWNER/NAME.")
    if not revision:
        raise UsageError(
            f"{repository}: no revision of it is known here. Name a commit with --revision, or "
            "--revision main for the newest."
        )
    if _COMMIT.fullmatch(revision) and _is_whole(_folder(repository, revision), precision):
        return Download(_folder(repository, revision), repository, revision)
    if is_offline():
        raise DownloadError(
            f"{repository} at {revision} is not on this machine, and the network is forbidden by "
            "$HARRIER_EDGE_OFFLINE or $HF_HUB_OFFLINE. Unset it, or bring the model from another "
            "machine: harrier-edge package MODEL -o FILE there, harrier-edge pull --from FILE here."
        )
    api = _api(quiet)
    commit, files = _listing(api, repository, revision, precision)
    folder = _folder(repository, commit)
    _check_pins(repository, commit, files, pinned or {})
    with _alone(folder):
        if not _is_whole(folder, precision):
            _check_room(folder, files, room_for)
            for file in files:
                _fetch(api, repository, commit, file, folder)
            _mark(folder, files)
    return Download(folder, repository, commit)


def drop(download: Download) -> None:
    """Remove a download from the disk."""
    (download.folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(download.folder)


def _is_whole(folder: Path, precision: str | None) -> bool:
    """Whether all is there; an ONNX export of others is there in some precisions only."""
    try:
        names = msgspec.json.decode((folder / MARKER).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return False
    graphs = foreign_graphs(names)
    return not graphs or (precision or FLOAT) in graphs


def _folder(repository: str, commit: str) -> Path:
    return cache_folder() / "downloads" / repository.replace("/", "--") / commit


def _api(quiet: bool) -> HfApi:
    """The hub at `$HF_ENDPOINT`; the library finds token and proxies by itself."""
    import huggingface_hub  # half a second that only a download pays for
    from huggingface_hub import utils

    name = "disable_progress_bars" if quiet else "enable_progress_bars"
    getattr(utils, name)()  # which does not export them for mypy
    return huggingface_hub.HfApi(os.environ.get("HF_ENDPOINT") or None)


def _listing(
    api: HfApi, repository: str, revision: str, precision: str | None
) -> tuple[str, list[RemoteFile]]:
    """The commit, and the files of it that are wanted, smallest first."""
    info = _patiently(
        f"{repository} at {revision}",
        lambda: api.model_info(repository, revision=revision, files_metadata=True, timeout=30),
    )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
        raise DownloadError(
            f"{repository}: the hub answers with commit {commit!r}, wanted {revision}. Check "
            "$HF_ENDPOINT: a mirror may be out of date."
        )
    names = [one.rfilename for one in info.siblings or []]
    wanted = _wanted(names, precision)
    files = []
    for one in info.siblings or []:
        if one.rfilename not in wanted:
            continue
        if not all(map(is_name, PurePosixPath(one.rfilename).parts)):
            raise DownloadError(f"{repository}: has a file named {one.rfilename!r}; not taken.")
        lfs = one.lfs
        size, sha256 = (lfs.size, lfs.sha256) if lfs else (one.size, None)
        if size is None or (sha256 is None and one.blob_id is None):
            raise DownloadError(
                f"{repository}: the hub tells neither size nor digest of {one.rfilename}, so it "
                "cannot be checked. Use another $HF_ENDPOINT."
            )
        files.append(RemoteFile(one.rfilename, size, sha256, None if sha256 else one.blob_id))
    if not any(file.name.endswith((".safetensors", ".onnx")) for file in files):
        raise DownloadError(
            f"{repository} at {commit}: has neither safetensors nor a model package, only "
            f"{', '.join(names) or 'nothing'}. Name another repository or revision."
        )
    return commit, sorted(files, key=lambda file: file.size)


def _wanted(names: list[str], precision: str | None) -> set[str]:
    """The files that are needed of a package, of a checkpoint, or of an ONNX export of others."""
    top = {name for name in names if "/" not in name.replace("\\", "/")}
    if MANIFEST_NAME in names:
        return top
    checkpoint = {name for name in top if any(fnmatch(name, one) for one in _CHECKPOINT_FILES)}
    if foreign_graphs(names) and not any(name.endswith(".safetensors") for name in checkpoint):
        return set(foreign_files(names, choose_graph(names, precision)[1]))
    below = set(names) - top
    return checkpoint | {name for name in below if any(fnmatch(name, one) for one in _MODULE_FILES)}


def _check_pins(
    repository: str, commit: str, files: list[RemoteFile], pinned: Mapping[str, FileRecord]
) -> None:
    """Refuse before the download what would be refused after it."""
    for file in files:
        pin = pinned.get(file.name, FileRecord())
        for what, seen, wanted in (
            ("size", file.size, pin.size),
            ("sha256", file.sha256, pin.sha256),
        ):
            if wanted is not None and seen is not None and seen != wanted:
                raise DownloadError(
                    f"{repository} at {commit}: {file.name} has {what} {seen} on the hub, and "
                    f"{wanted} when this revision was pinned. It was changed; nothing was taken. "
                    "Check $HF_ENDPOINT, and tell the model's authors."
                )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no two processes write one download at a time."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.with_name(f".{folder.name}.lock")):  # which stays, the folder may not
        yield


def _check_room(folder: Path, files: list[RemoteFile], room_for: Callable[[int], int]) -> None:
    size = sum(file.size for file in files)
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = max(0, size - present) + room_for(size) + SPARE_BYTES
    folder.mkdir(parents=True, exist_ok=True)
    if lacking := lacking_space(folder, needed):
        raise DownloadError(lacking)


def _fetch(api: HfApi, repository: str, commit: str, file: RemoteFile, folder: Path) -> None:
    """Download one file, and once more where its bytes are wrong."""
    path = folder / file.name
    if path.exists() and _difference(path, file) is None:
        return
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    seen: str | None = None
    for _ in range(2):
        _patiently(
            f"{repository}: {file.name}",
            partial(_receive, api, repository, commit, file, part),
        )
        if (seen := _difference(part, file)) is None:
            part.replace(path)
            return
        part.unlink()
    raise DownloadError(
        f"{repository} at {commit}: {file.name} arrives with {seen}, twice. It was removed. A "
        "proxy or mirror may change what passes; check $HTTPS_PROXY and $HF_ENDPOINT."
    )


def _receive(api: HfApi, repository: str, commit: str, file: RemoteFile, part: Path) -> None:
    """Receive what `part` lacks of a file, and have it on the disk.

    Not by `hf_hub_download`, which forgets what was cut: always with Xet, and since
    huggingface_hub 1.18 (https://github.com/huggingface/huggingface_hub/issues/4196).
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with part.open("ab") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
        http_get(
            hf_hub_url(repository, file.name, revision=commit, endpoint=api.endpoint),
            stream,
            resume_size=stream.seek(0, os.SEEK_END),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )
        stream.flush()
        os.fsync(stream.fileno())


def _difference(path: Path, file: RemoteFile) -> str | None:
    """What is wrong with a downloaded file, in words."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes in place of {file.size}"
    if file.sha256:
        seen, wanted = sha256_of(path), file.sha256
    else:
        seen, wanted = _git_sha1(path), file.git_sha1 or ""
    return None if seen == wanted else f"digest {seen} in place of {wanted}"


def _git_sha1(path: Path) -> str:
    """git's id of a file: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects"""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _mark(folder: Path, files: list[RemoteFile]) -> None:
    """Note that all is there; then it is, whenever the power is cut."""
    part = folder / f"{MARKER}.part"
    with part.open("wb") as stream:
        stream.write(msgspec.json.encode({file.name: file.size for file in files}))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / MARKER)


def _patiently(what: str, ask: Callable[[], T]) -> T:
    """What `ask` gives, asked again where the network or the server fails for a while."""
    from huggingface_hub.errors import HfHubHTTPError

    # requests' error until huggingface_hub 1, httpx's since; both libraries' others are OSError
    # or descend from it.
    failures = (OSError, cast("type[Exception]", HfHubHTTPError.__mro__[1]))
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except failures as error:
            status, retry_after = _answer(error)
            if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
                raise DownloadError(f"{what}: the disk is full. Free space; it resumes.") from None
            if status in _REFUSED:
                raise DownloadError(_refusal(what, status, error)) from None
            if attempt == ATTEMPTS - 1:
                told = f"status {status}" if status else _root(error)
                raise DownloadError(
                    f"{what}: cannot be had from the hub after {ATTEMPTS} attempts ({told}). "
                    "Check the connection, $HTTPS_PROXY and $HF_ENDPOINT, and pull again: it goes "
                    "on where it was."
                ) from None
            wait = min(max(BACKOFF_S * 2**attempt, retry_after), LONGEST_WAIT_S)
            logger.info("%s: %s; again in %.0f s", what, status or type(error).__name__, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[int | None, float]:
    """The status that the server gave, if any, and the seconds that it wants one to wait."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if response is not None:
            after = response.headers.get("Retry-After", "")
            return response.status_code, float(after) if after.isdecimal() else 0.0
    return None, 0.0


def _root(error: BaseException) -> str:
    *_, root = _chain(error)
    return str(root) or type(root).__name__


def _refusal(what: str, status: int, error: BaseException) -> str:
    kinds = {type(one).__name__ for one in _chain(error)}
    if "RevisionNotFoundError" in kinds:
        return f"{what}: the hub has no such revision. Name a commit, branch or tag of it."
    if "GatedRepoError" in kinds or status == 403:
        return (
            f"{what}: the repository is gated. Accept its terms on its page, then set $HF_TOKEN "
            "to a token that may read it."
        )
    if status == 401:
        return (
            f"{what}: the hub asks for a token: the repository is private, gated, or does not "
            "exist. Check the name, and set $HF_TOKEN to a token that may read it."
        )
    return f"{what}: the hub has no such repository or file. Check the name."
