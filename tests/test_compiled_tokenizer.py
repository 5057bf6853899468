"""The compiled tokenizer, held to tokenizer.json."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standins.folder import full_tokenizer

from harrier_edge.package import open_package
from harrier_edge.tokens import Tokenizer
from harrier_export.compiled_tokenizer import compile_tokenizer
from harrier_export.tokenizer import write_tokenizer

KESTREL = Path(__file__).parents[1] / "models" / "kestrel"
Pair = tuple[Tokenizer, Tokenizer]


def pair(folder: Path, final_token: int) -> Pair:
    """A folder's tokenizer twice: as tokenizer.json, and compiled now."""
    table = compile_tokenizer(folder, final_token)
    assert table is not None
    assert table.texts > 10_000
    path, limit = folder / "tokenizer.json", 10_000
    return (
        Tokenizer(path, final_token=final_token, max_tokens=limit),
        Tokenizer(path, final_token=final_token, max_tokens=limit, compiled=table),
    )


@pytest.fixture(scope="module")
def tiny(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tiny tokenizer's two forms."""
    folder = tmp_path_factory.mktemp("tiny-tokenizer")
    shutil.copyfile(tiny_package / "tokenizer.json", folder / "tokenizer.json")
    return pair(folder, 1)


@pytest.fixture(scope="module")
def kestrel(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The built-in model's, which is of lower case and of Unicode's form NFKC."""
    folder = tmp_path_factory.mktemp("kestrel-tokenizer")
    shutil.copyfile(KESTREL / "tokenizer.json", folder / "tokenizer.json")
    return pair(folder, 1)


@pytest.fixture(scope="module", params=["tiny", "kestrel"])
def either(request: pytest.FixtureRequest) -> Pair:
    """Each of the two, one of which changes letters."""
    forms: Pair = request.getfixturevalue(request.param)
    return forms


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1))
def test_any_text_has_the_same_ids(either: Pair, texts: list[str]) -> None:
    """Whatever the string, lone surrogates included, and whatever its company."""
    reference, compiled = either
    assert compiled.encode(texts) == reference.encode(texts)


def test_every_letter_is_made_small_alike(kestrel: Pair) -> None:
    """Alone, within and at the end of a word, where a Greek sigma has a shape of its own."""
    reference, compiled = kestrel
    cased = [c for c in map(chr, range(sys.maxunicode)) if c.lower() != c or c.upper() != c]
    texts = [form.format(c) for c in cased for form in ("{}", "a{}b", "A{} C")]
    assert len(texts) > 8_000
    assert compiled.encode(texts) == reference.encode(texts)


def test_a_package_loads_without_tokenizers(tiny_package: Path) -> None:
    """The manifest knows the compiled form, and common text never loads the other one."""
    manifest = open_package(tiny_package).manifest
    table = manifest.compiled_tokenizer
    assert table is not None
    assert table.first == [2]
    assert "tokenizer.kitoken" in manifest.files
    path = tiny_package / "tokenizer.json"
    tokenizer = Tokenizer(path, final_token=1, max_tokens=99, compiled=table)
    assert tokenizer.encode(["the end", "été 日本"])[0].ids[0] == 2
    assert "_reference" not in vars(tokenizer)
    tokenizer.encode(["\u2581\u2581"])
    assert "_reference" in vars(tokenizer)


def test_what_is_not_in_the_form_that_it_takes_goes_to_the_reference(tiny_package: Path) -> None:
    """As the manifest names it, and as it did before format 5."""
    table = open_package(tiny_package).manifest.compiled_tokenizer
    assert table is not None
    path = tiny_package / "tokenizer.json"
    for changes in ({"form": "NFC"}, {"nfc": True}):
        compiled = msgspec.structs.replace(table, **changes)
        tokenizer = Tokenizer(path, final_token=1, max_tokens=99, compiled=compiled)
        tokenizer.encode(["\u00e9t\u00e9"])
        assert "_reference" not in vars(tokenizer)
        tokenizer.encode(["e\u0301te\u0301"])
        assert "_reference" in vars(tokenizer)


def test_the_thread_that_loads_it_may_end(tiny_package: Path) -> None:
    """kitoken's allocator belongs to the thread that loads it; others go on when that one ends."""
    script = """if True:
        import sys, threading
        from harrier_edge import Embedder
        shared = []
        def load(): shared.append(Embedder(sys.argv[1]))
        def use(): shared.append(shared[0].count_tokens(["the end"] * 50)[0])
        for work in (load, use, use):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert "kitoken" in sys.modules and "tokenizers" not in sys.modules
        print(shared[1:])
    """
    command = [sys.executable, "-c", script, str(tiny_package)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[7, 7]\n"


def test_another_kitoken_is_not_trusted(
    tiny_package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A form that another release wrote is left alone, with a notice, and the ids are the same."""
    table = open_package(tiny_package).manifest.compiled_tokenizer
    assert table is not None
    path = tiny_package / "tokenizer.json"
    other = msgspec.structs.replace(table, kitoken="0.0.1")
    tokenizer = Tokenizer(path, final_token=1, max_tokens=99, compiled=other)
    assert "kitoken 0.0.1, which is not the one installed" in caplog.text
    with_it = Tokenizer(path, final_token=1, max_tokens=99, compiled=table)
    assert tokenizer.encode(["the end"]) == with_it.encode(["the end"])


def test_a_tokenizer_that_comes_out_different_is_not_compiled(
    tiny_package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where one text has other ids, there is no compiled form, and the reason is logged."""
    data = json.loads((tiny_package / "tokenizer.json").read_text("utf-8"))
    template = data["post_processor"]["single"]
    # An end of its own only for this: a second <bos> behind the text, which kitoken does not know.
    template.insert(2, template[0])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    with caplog.at_level(logging.WARNING):
        assert compile_tokenizer(tmp_path, 1) is None
    assert "no tokenizer.kitoken is written: ValueError: of " in caplog.text
    assert not (tmp_path / "tokenizer.kitoken").exists()


@pytest.mark.large
@pytest.mark.parametrize(("name", "final"), [("gemma3", 1), ("qwen3", 151643)])
def test_the_full_tokenizers_have_the_same_ids(
    name: str, final: int, shared: Path, tmp_path: Path
) -> None:
    """Gemma's and Qwen's, on all that is checked at export and on every gold text."""
    write_tokenizer(full_tokenizer(name), tmp_path / "tokenizer.json", final)
    reference, compiled = pair(tmp_path, final)
    lines = (shared / "gold" / "tokens.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert compiled.encode(texts) == reference.encode(texts)
