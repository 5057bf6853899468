"""A limit of memory: kept, or refused with the least that works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harrier_edge.budget import Budget, memory_limit
from harrier_edge.embedder import Embedder
from harrier_edge.errors import UsageError
from harrier_edge.package import find_package

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tells no resident memory")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("512MB", 512e6),
        ("1.5 gb", 1.5e9),
        ("800MiB", 800 * 2**20),
        (4 * 10**8, 4e8),
        ("300m", 3e8),
        ("2TB", 2e12),
    ],
)
def test_a_limit_is_read(text: str | int, wanted: float) -> None:
    """In decimal and binary units, or bytes."""
    assert memory_limit(text) == wanted


@pytest.mark.parametrize("text", ["much", "-1GB", "0", "512", "1PB", "1.GB"])
def test_what_is_no_amount_of_memory_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from the environment, and with an amount as example."""
    monkeypatch.setenv("HARRIER_EDGE_MEMORY", text)
    with pytest.raises(UsageError, match=re.escape(repr(text)) + ".*512MB"):
        memory_limit(None)


LOAD = """
import sys
from harrier_edge.embedder import Embedder
print(Embedder(sys.argv[1], memory=sys.argv[2]).encode("one text").shape)
"""


def test_too_little_is_refused_with_the_least_that_works(tiny_package: Path) -> None:
    """And that works, in a process that has nothing else."""

    def load(limit: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOAD, str(tiny_package), limit]
        return subprocess.run(command, cwd=tiny_package, capture_output=True, text=True)

    refused = load("20MB")
    assert refused.returncode
    least = re.search(r"The least that works is (\d+)MB", refused.stderr)
    assert least
    assert load(f"{int(least[1]) + 5}MB").stdout == "(64,)\n"


@pytest.mark.parametrize("spare", [100, 2000])
def test_a_limit_does_not_change_a_bit(spare: int, tiny_package: Path) -> None:
    """With room for one graph at a time or for both; texts of all lengths, also many at once."""
    texts = [f"text {i} " * (1 + i * i % 110) for i in range(24)]
    plain = Embedder(tiny_package, threads=2)
    wanted = [plain.encode_document(texts), plain.encode_query(texts), plain.encode_query(texts[0])]
    limit = Budget(10**12).taken() + spare * 10**6
    limited = Embedder(tiny_package, threads=2, memory=limit)
    assert np.array_equal(limited.encode_document(texts), wanted[0])
    assert np.array_equal(limited.encode_query(texts), wanted[1])
    assert np.array_equal(limited.encode_query(texts[0]), wanted[2])


PEAK = """
import sys
from harrier_edge.embedder import Embedder
from harrier_edge.machine import memory
embedder = Embedder(sys.argv[1], threads=8, memory=sys.argv[2])
texts = [f"note {i} of things " * (1 + i * i % 150) for i in range(60)]
embedder.encode_document([*texts, "a long text " * 3000])
embedder.encode_query(texts[:20])
print(memory().peak_mb)
"""


def test_the_peak_stays_under_the_limit(tmp_path: Path) -> None:
    """Of the whole process, over texts of 5 to 9,000 tokens; without the limit it is passed."""
    kestrel = str(find_package("kestrel"))

    def peak(limit: str) -> float:
        command = [sys.executable, "-c", PEAK, kestrel, limit]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return float(run.stdout)

    assert peak("4GB") > 220
    assert peak("190MB") <= 190


MIXED = """
import random
import sys
from harrier_edge import packing
packing.LEAST_WEIGHTS = 0  # so that the table is mapped, as that of larger models is
from harrier_edge.embedder import Embedder
from harrier_edge.machine import memory
embedder = Embedder(sys.argv[1], threads=2, memory="140MB")
chance = random.Random(0)
for _ in range(4):
    lengths = [chance.randrange(1, 800) for _ in range(20)]
    texts = [[chance.randrange(5, embedder.manifest.vocab_size) for _ in range(n)] for n in lengths]
    embedder._session.run_many(texts)
print(memory().peak_mb)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a page brings along is the system's")
def test_the_peak_stays_under_the_limit_whatever_tokens_there_are(tmp_path: Path) -> None:
    """Also the table's pages count, and what one call took does not add to what the next takes."""
    command = [sys.executable, "-c", MIXED, str(find_package("kestrel"))]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(run.stdout) <= 140
