"""What a watch follows, and what it leaves alone."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harrier_edge.documents.watch import moments


def watched_folders() -> int:
    """How many Linux watches for this process."""
    count = 0
    for path in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the listing's own, which is over
            count += path.read_text("utf-8").count("inotify wd:")
    return count


@pytest.mark.skipif(sys.platform != "linux", reason="counts the watches of Linux")
def test_the_folder_around_a_file_is_not_watched_below(tmp_path: Path) -> None:
    """Though another source is a folder. Both are followed, and so is a file put in the place."""
    for number in range(30):
        (tmp_path / f"other/{number}").mkdir(parents=True)
    folder, file = tmp_path / "notes", tmp_path / "todo.txt"
    (folder / "inner").mkdir(parents=True)
    file.write_text("one", "utf-8")
    before, stop = watched_folders(), threading.Event()
    changes = moments([folder, file], frozenset(), stop)
    assert next(changes)
    assert watched_folders() - before == 3  # notes, notes/inner and what todo.txt is in
    (tmp_path / "new").write_text("two", "utf-8")
    (tmp_path / "new").replace(file)
    assert next(changes)
    (folder / "inner" / "a.md").write_text("three", "utf-8")
    assert next(changes)
    stop.set()
    assert list(changes) == []


def test_changes_beside_a_source_do_not_count(tmp_path: Path) -> None:
    """Nor do those of ignored files; they keep nobody waiting for what counts."""
    folder, file = tmp_path / "notes", tmp_path / "todo.txt"
    folder.mkdir()
    file.write_text("one", "utf-8")
    stop = threading.Event()
    changes = moments([folder, file], {folder / "index.sqlite"}, stop)
    assert next(changes)
    threading.Timer(2.0, stop.set).start()
    (tmp_path / "beside").write_text("two", "utf-8")
    (folder / "index.sqlite").write_text("two", "utf-8")
    assert list(changes) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or not os.geteuid(), reason="root reads everything")
def test_a_folder_that_may_not_be_read_stops_no_watch(tmp_path: Path) -> None:
    """The others are followed."""
    locked = tmp_path / "locked"
    locked.mkdir(0)
    try:
        changes = moments([tmp_path], frozenset())
        assert next(changes)
        (tmp_path / "a.md").write_text("one", "utf-8")
        assert next(changes)
    finally:
        locked.chmod(0o700)


def test_changes_that_are_reported_by_their_real_paths_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS does where a source is named through a link; what is ignored stays so."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    try:
        link.symlink_to(real, target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege here")

    def watch(*_: Path, **__: object) -> Iterator[set[tuple[int, str]]]:
        yield set()
        for name in ("a.md", "index.sqlite", "b.md"):
            yield {(1, str(real / name))}

    monkeypatch.setattr("watchfiles.watch", watch)
    assert len(list(moments([link], {link / "index.sqlite"}))) == 3
