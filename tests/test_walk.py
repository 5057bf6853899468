"""Folders to files, and what is passed over."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from harrier_edge.documents.read import read_bytes
from harrier_edge.documents.walk import find_files
from harrier_edge.errors import DocumentError


def make(folder: Path, *names: str, content: bytes = b"x") -> None:
    """Files with the same content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(folder: Path) -> list[str]:
    """What a walk finds, from the folder on."""
    return [file.path.relative_to(folder).as_posix() for file in find_files(folder).files]


def test_a_folder_gives_its_files_sorted_and_counts_the_others(tmp_path: Path) -> None:
    """Text of any name is read; hidden and binary files are counted by their reason."""
    make(tmp_path, "b.md", "a/c.TXT", "z.rst", "Makefile", "notes.unknown", "a.pdf")
    make(tmp_path, ".hidden.md", ".git/e.md", "a/d.png", "b.tar.gz")
    make(tmp_path, "data.bin", "noise", content=b"a\0b")
    assert names(tmp_path) == ["Makefile", "a/c.TXT", "a.pdf", "b.md", "notes.unknown", "z.rst"]
    assert find_files(tmp_path).skipped == {"hidden": 2, "binary": 4}


def test_a_named_file_may_have_any_name(tmp_path: Path) -> None:
    """Suffixes and dots matter only in folders."""
    make(tmp_path, ".notes")
    assert [file.path for file in find_files(tmp_path / ".notes").files] == [tmp_path / ".notes"]


def test_a_named_folder_may_be_an_ignored_one(tmp_path: Path) -> None:
    """What ignores the folder is no reason to leave out all that is in it; its own rules hold."""
    make(tmp_path, "repo/.git/HEAD", "repo/out/notes/a.md", "repo/out/notes/inner/b.md")
    make(tmp_path, "repo/.gitignore", content=b"out/\n")
    make(tmp_path, "repo/out/notes/.gitignore", content=b"a.md\n")
    assert names(tmp_path / "repo") == []
    assert names(tmp_path / "repo/out/notes") == ["inner/b.md"]


def test_large_files_are_skipped(tmp_path: Path) -> None:
    """At the limit a file is still read."""
    make(tmp_path, "small.md", content=b"x" * 10)
    make(tmp_path, "large.md", content=b"x" * 11)
    found = find_files(tmp_path, max_bytes=10)
    assert [file.path.name for file in found.files] == ["small.md"]
    assert found.skipped == {"too large": 1}


def test_ignore_files_hold_as_in_git(tmp_path: Path) -> None:
    """Deeper files go first, "!" takes back, and those up to the repository's top count."""
    make(tmp_path, "repo/.git/HEAD", "repo/docs/a.md", "repo/docs/a.log", "repo/docs/keep.log")
    make(tmp_path, "repo/docs/build/b.md", "repo/docs/sub/c.md", "repo/docs/sub/secret.md")
    make(tmp_path, "repo/.gitignore", content=b"*.log\nbuild/\n")
    make(tmp_path, "repo/docs/.harrierignore", content=b"!keep.log\n")
    make(tmp_path, "repo/docs/sub/.gitignore", content=b"/secret.md\n")
    expected = ["a.md", "keep.log", "sub/c.md"]
    assert names(tmp_path / "repo" / "docs") == expected
    assert find_files(tmp_path / "repo" / "docs").skipped == {"ignored": 3, "hidden": 2}
    assert names(tmp_path) == [f"repo/docs/{name}" for name in expected]


@pytest.mark.parametrize("line", ["!", "foo\\", "[z-a].md", "/", "\\"])
def test_a_line_that_is_no_pattern_is_passed_over(tmp_path: Path, line: str) -> None:
    """As git does; the other lines hold, from the first on, whatever mark the file begins with."""
    make(tmp_path, "a.md", "a.log", "b.tmp")
    make(tmp_path, ".gitignore", content=f"\ufeff*.log\n{line}\n*.tmp\n".encode())
    assert names(tmp_path) == ["a.md"]


def test_folders_are_taken_back_in_the_order_of_the_lines(tmp_path: Path) -> None:
    """The common recipe that takes only some files, wherever they are."""
    make(tmp_path, "a.md", "a.txt", "docs/b.md", "docs/b.txt", "docs/in/c.md", "docs/in/c.txt")
    make(tmp_path, ".gitignore", content=b"*\n!*/\n!*.md\n")
    assert names(tmp_path) == ["a.md", "docs/b.md", "docs/in/c.md"]


def test_text_that_has_a_program_of_its_own_is_read(tmp_path: Path) -> None:
    """Python's table of types calls it an application's; what is not text is still left out."""
    make(tmp_path, "a.tex", "b.latex", "c.texi", "d.roff", "e.man", "f.csh", "g.t")
    make(tmp_path, "x.tex", content=b"a\0b")
    assert [name[0] for name in names(tmp_path)] == [*"abcdefg"]
    assert find_files(tmp_path).skipped == {"binary": 1}


def test_links_do_not_lead_in_a_circle(tmp_path: Path) -> None:
    """Links to files are followed, links to folders and into nothing are counted."""
    make(tmp_path, "a.md")
    try:
        (tmp_path / "up").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "b.md").symlink_to(tmp_path / "a.md")
        (tmp_path / "gone.md").symlink_to(tmp_path / "nothing")
        (tmp_path / "self.md").symlink_to(tmp_path / "self.md")
    except OSError:
        pytest.skip("links need a privilege here")
    assert names(tmp_path) == ["a.md", "b.md"]
    assert find_files(tmp_path).skipped == {"link to a folder": 1, "broken link": 2}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_what_is_no_regular_file_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO without a writer would wait for ever, in a folder or named itself."""
    os.mkfifo(tmp_path / "fifo.md")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        server.bind("socket.md")
        assert find_files(tmp_path).skipped == {"not a regular file": 2}
    with pytest.raises(DocumentError, match="neither a file nor a folder"):
        find_files(tmp_path / "fifo.md")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_bytes(tmp_path / "fifo.md")


@pytest.mark.skipif(not hasattr(os, "geteuid") or not os.geteuid(), reason="root reads everything")
def test_an_unreadable_folder_fails_by_itself(tmp_path: Path) -> None:
    """The others are found."""
    make(tmp_path, "a.md", "locked/b.md")
    (tmp_path / "locked").chmod(0)
    try:
        found = find_files(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert [file.path.name for file in found.files] == ["a.md"]
    assert found.unread == [tmp_path / "locked"]
    assert "cannot be read" in found.failed[0].reason


@pytest.mark.skipif(not hasattr(os, "geteuid") or not os.geteuid(), reason="root reads everything")
@pytest.mark.parametrize("folder", [".", "top", "top/inner"])
def test_an_unreadable_ignore_file_fails_by_itself(tmp_path: Path, folder: str) -> None:
    """What it may hide is not read, be it in the folder that is named, above or below."""
    make(tmp_path, ".git/HEAD", "top/inner/a.md", f"{folder}/.gitignore")
    locked = tmp_path / folder / ".gitignore"
    locked.chmod(0)
    found = find_files(tmp_path / "top")
    assert found.files == []
    assert [(one.path, one.reason) for one in found.failed] == [
        (str(locked), "cannot be read: Permission denied")
    ]
    assert found.unread == [tmp_path / ("top/inner" if folder == "top/inner" else "top")]


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """With the next step."""
    with pytest.raises(DocumentError, match=r"nowhere: no such file or folder"):
        find_files(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """A file whose name no index can hold is refused by itself, in words."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md"))
    path.write_text("x", "utf-8")
    assert [file.path for file in find_files(tmp_path).files] == [path]
    with pytest.raises(DocumentError, match="name is not UTF-8"):
        read_bytes(path)
