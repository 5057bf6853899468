"""harrier_export.weights: external data in several files, written side by side and continued."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from harrier_export import weights
from harrier_export.journal import Journal
from harrier_export.tasks import MOST_BYTES, OrderedTasks
from harrier_export.weights import Place, Task, Weight, WeightFiles, WeightPlan

ROWS = 6  # of each weight, two a task
GROUPS = 9


def group(number: int) -> list[Weight]:
    """A large weight and a small one."""
    return [
        Weight(f"w{number}", np.uint8, (ROWS, 1000 * number + 700)),
        Weight(f"w{number}.scales", np.float32, (ROWS,)),
    ]


def tasks(number: int, ran: list[int], fail: bool = False) -> Iterator[Task]:
    """Tasks that make the rows of a group and note that they ran."""

    def rows(start: int) -> list[npt.NDArray[np.float32]]:
        if fail:
            raise KeyboardInterrupt
        ran.append(number)
        large = np.arange(start, start + 2, dtype=np.uint8)[:, None] + np.uint8(number)
        width = group(number)[0].shape[1]
        return [np.repeat(large, width, axis=1), np.arange(start, start + 2, dtype=np.float32)]

    for start in range(0, ROWS, 2):
        yield lambda start=start: rows(start)  # type: ignore[misc]


def write(
    folder: Path, ran: list[int], fail_at: int | None = None, journal: Journal | None = None
) -> tuple[dict[str, bytes], list[Place], WeightFiles]:
    """All groups; what the files hold, where the weights lie, and the writer."""
    places: list[Place] = []
    with WeightFiles(folder / "data", max_file_bytes=50_000, journal=journal) as files:
        for number in range(GROUPS):
            places += files.add(group(number), tasks(number, ran, number == fail_at))
    return {path.name: path.read_bytes() for path in folder.glob("data*")}, places, files


def test_weights_lie_where_they_are_said_to(tmp_path: Path) -> None:
    """In files under the limit, as planned without a byte, with the digests that were promised."""
    contents, places, files = write(tmp_path, [])
    plan = WeightPlan("data", 50_000)
    assert [place for n in range(GROUPS) for place in plan.add(group(n))] == places
    assert plan.nbytes == sum(map(len, contents.values()))
    assert len(contents) > 3
    assert set(contents) == {"data", *(f"data_{n}" for n in range(1, len(contents)))}
    assert files.digests == {n: hashlib.sha256(b).hexdigest() for n, b in contents.items()}
    for place, weight in zip(places, [w for n in range(GROUPS) for w in group(n)], strict=True):
        stored = contents[place.file][place.offset : place.offset + place.length]
        assert place.offset % 4096 == 0
        assert len(contents[place.file]) <= 50_000 or place.length > 50_000
        rows = np.frombuffer(stored, weight.dtype).reshape(weight.shape)
        shift = 0 if weight.name.endswith("scales") else int(weight.name[1:])
        assert np.array_equal(rows.reshape(ROWS, -1)[:, 0], np.arange(ROWS) + shift)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Bytes that do not fill the shape would move all that follows."""
    weight = Weight("w", np.float32, (2, 3))
    with (
        pytest.raises(ValueError, match=r"w: 20 bytes written for .*float32.* \[2, 3\]"),
        WeightFiles(tmp_path / "data") as files,
    ):
        files.add([weight], [lambda: [np.zeros(5, np.float32)]])


@pytest.mark.parametrize("fail_at", [0, 3, GROUPS - 1])
def test_an_interrupted_writing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    """With the bytes and digests of an unbroken one; what the journal knows is not made again."""
    monkeypatch.setattr(weights, "CHECKPOINT_SECONDS", 0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    wanted, places, files = write(whole, [])
    journal = tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        write(broken, [], fail_at, Journal(journal, "same"))
    (broken / "data_9").write_bytes(b"of which the journal knows nothing")
    ran: list[int] = []
    seen, seen_places, seen_files = write(broken, ran, journal=Journal(journal, "same"))
    assert (seen, seen_places) == (wanted, places)
    assert seen_files.digests == files.digests
    assert set(ran) == set(range(fail_at, GROUPS))
    again: list[int] = []
    assert write(broken, again, journal=Journal(journal, "same"))[0] == wanted
    assert again == []


def test_a_journal_is_of_one_thing(tmp_path: Path) -> None:
    """Another identity begins anew, and a line that was cut short is as if it were not."""
    path = tmp_path / "journal"
    write(tmp_path, [], journal=Journal(path, "one"))
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    known = Journal(path, "one").state
    assert known is not None
    path.write_bytes(path.read_bytes() + lines[-1][:-5])
    assert Journal(path, "one").state == known
    assert path.read_bytes() == b"".join(lines)
    assert Journal(path, "another").state is None
    assert Journal(path, "another").state is None


def test_results_are_taken_in_order_and_few_wait(tmp_path: Path) -> None:
    """The first task ends last; no more than two a thread were begun before it was taken."""
    begun: list[int] = []
    taken: list[int] = []
    held = threading.Event()

    def task(number: int) -> int:
        begun.append(number)
        if number == 0:
            held.wait(10)
        return number

    tasks = OrderedTasks(2)
    for number in range(4):
        tasks.give(lambda number=number: task(number), taken.append)  # type: ignore[misc]
    assert taken == []
    held.set()
    for number in range(4, 20):
        tasks.give(lambda number=number: task(number), taken.append)  # type: ignore[misc]
        assert len(begun) <= len(taken) + 4
    tasks.take_all()
    tasks.close()
    assert taken == list(range(20))


def test_of_large_results_only_as_many_wait_as_fit() -> None:
    """However many threads there are; one that is larger than the bound goes alone."""
    taken: list[int] = []
    sizes = [MOST_BYTES // 4] * 9 + [3 * MOST_BYTES] * 3 + [0] * 5
    tasks = OrderedTasks(16)
    for number, nbytes in enumerate(sizes):
        tasks.give(lambda number=number: number, taken.append, nbytes)  # type: ignore[misc]
        pending = sizes[len(taken) : number + 1]
        assert sum(pending) <= MOST_BYTES or len(pending) == 1
    tasks.take_all()
    tasks.close()
    assert taken == list(range(17))
