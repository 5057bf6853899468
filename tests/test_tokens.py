"""Text to token ids."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harrier_edge import tokens
from harrier_edge.errors import PackageError
from harrier_edge.tokens import Tokenizer

BOS, EOS = 2, 1


@pytest.fixture(scope="module")
def tokenizer(tiny_package: Path) -> Tokenizer:
    """The tiny package's tokenizer, with a low limit."""
    return Tokenizer(tiny_package / "tokenizer.json", final_token=EOS, max_tokens=12)


def test_empty_text_is_the_special_tokens_alone(tokenizer: Tokenizer) -> None:
    """The empty text has a defined input."""
    assert tokenizer.encode([""])[0].ids == [BOS, EOS]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_keeps_the_limit_and_the_final_token(tokenizer: Tokenizer, text: str) -> None:
    """Any string, lone surrogates and NUL included, fits the limit and ends as it must."""
    encoded = tokenizer.encode([text])[0]
    assert encoded.ids[0] == BOS
    assert encoded.ids[-1] == EOS
    assert len(encoded.ids) <= 12
    assert encoded.cut_tokens >= 0
    assert encoded.cut_tokens == 0 or len(encoded.ids) == 12


def test_a_long_text_is_cut_before_its_final_token(
    tokenizer: Tokenizer, tiny_package: Path
) -> None:
    """Truncation keeps the first tokens and the final one, and counts what it cut."""
    text = "a long story " * 20
    whole = Tokenizer(tiny_package / "tokenizer.json", final_token=EOS, max_tokens=10_000)
    full = whole.encode([text])[0].ids
    cut = tokenizer.encode([text])[0]
    assert cut.ids == [*full[:11], EOS]
    assert cut.cut_tokens == len(full) - 12


def test_a_lone_surrogate_is_read_as_the_replacement_character(tokenizer: Tokenizer) -> None:
    """What UTF-8 cannot hold becomes U+FFFD; a pair of surrogates becomes its character."""
    lone, replaced = tokenizer.encode(["a\ud83db", "a\ufffdb"])
    assert lone == replaced
    pair, character = tokenizer.encode(["\ud83d\ude00", "😀"])
    assert pair == character


def test_a_tokenizer_without_the_final_token_is_refused(own_package: Path) -> None:
    """A tokenizer that does not end inputs with the final token is refused at load."""
    path = own_package / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    data["post_processor"] = None
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(PackageError, match="wanted 1"):
        Tokenizer(path, final_token=EOS, max_tokens=12)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """Damaged JSON is named by its path."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{", "utf-8")
    with pytest.raises(PackageError, match=r"tokenizer\.json: is not a tokenizer"):
        Tokenizer(path, final_token=EOS, max_tokens=12)


SLOW_LIBRARY = """
import os
import time
os.environ.pop("MIMALLOC_PURGE_DELAY", None)
time.sleep(0.3)
class Kitoken:
    pass
"""


def test_a_library_that_is_being_imported_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second thread gets it whole, and the environment may change in the meantime."""
    (tmp_path / "kitoken.py").write_text(SLOW_LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "kitoken", None)  # so that it is put back as it was
    monkeypatch.delitem(sys.modules, "kitoken")
    monkeypatch.delenv("MIMALLOC_PURGE_DELAY", raising=False)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tokens._kitoken)
        while "kitoken" not in sys.modules:
            time.sleep(0.001)
        assert pool.submit(lambda: tokens._kitoken().Kitoken).result()
        assert first.result() is sys.modules["kitoken"]


def test_texts_are_counted_some_at_a_time(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as hold so many characters, so that the ids of all are never in memory at once."""
    texts = ["a long story"] * 5 + [""] * 30 + ["long " * 20, "a", ""]
    wanted = [len(one.ids) + one.cut_tokens for one in tokenizer.encode(texts)]
    seen: list[int] = []

    def encode(part: list[str]) -> list[tokens.TokenizedText]:
        seen.append(sum(map(len, part)) if len(part) > 1 else 0)
        return Tokenizer.encode(tokenizer, part)

    monkeypatch.setattr(tokenizer, "encode", encode)
    monkeypatch.setattr(tokens, "COUNTED_CHARACTERS", 30)
    assert tokenizer.count(texts) == wanted
    assert len(seen) > 5
    assert max(seen) <= 30
    assert tokenizer.count([]) == []
