"""A sentence-transformers model in memory: what it says of itself, its vectors, and its trace.

Loading and running are sentence-transformers' own; the trace is optimum's. Both are heavy, and
imported where an export asks for them alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import CheckpointError, UnsupportedModelError, UsageError

MODULES = "modules.json"
PACKAGES = ("optimum-onnx", "sentence-transformers", "torch", "transformers")
_FIRST = "Transformer"
_TRACED = (_FIRST, "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")
_LONGEST = 10**6  # a tokenizer without a limit of its own says more

Vectors = npt.NDArray[np.float32]


class SentenceModel:
    """A model that sentence-transformers has loaded, in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        """Load `folder`, from its files alone.

        Raises UsageError where the extra `optimum` is not installed, CheckpointError where
        `folder` holds no such model, and UnsupportedModelError for one whose vectors a package
        cannot give.
        """
        if any(find_spec(name) is None for name in ("optimum.exporters", "sentence_transformers")):
            raise UsageError(
                "--via optimum needs optimum and sentence-transformers, which are not installed. "
                "Install them with: pip install 'harrier-edge[optimum]'"
            )
        if not (folder / MODULES).is_file():
            raise CheckpointError(
                f"{folder}: has no {MODULES}; wanted the folder of a sentence-transformers model, "
                "which says how its tokens become a vector."
            )
        from sentence_transformers import SentenceTransformer

        self._folder = folder
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old names in old models
                model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        except Exception as error:  # of whatever library finds the fault
            raise CheckpointError(
                f"{folder}: sentence-transformers cannot load it: {error}"
            ) from error
        self._model = model.float().eval()
        self._check()
        self.dimension = len(model.encode("a", prompt="", show_progress_bar=False))
        self.config: dict[str, Any] = model[0].auto_model.config.to_dict()
        limits = (
            model.get_max_seq_length(),
            model.tokenizer.model_max_length,
            self.config.get("max_position_embeddings"),
        )
        known = [limit for limit in limits if limit and limit < _LONGEST]
        if not known:
            raise UnsupportedModelError(
                f"{folder}: tells nowhere how many tokens it takes; write max_seq_length into its "
                "sentence_bert_config.json."
            )
        self.max_tokens: int = known[0]
        self.prompts: dict[str, str] = {k: v for k, v in model.prompts.items() if v}
        self.default_prompt: str | None = model.default_prompt_name

    def _check(self) -> None:
        kinds = [type(module).__name__ for module in self._model]
        if kinds[:1] != [_FIRST] or not set(kinds) <= set(_TRACED) or _FIRST in kinds[1:]:
            raise UnsupportedModelError(
                f"{self._folder / MODULES}: has the modules {', '.join(kinds)}; wanted a {_FIRST}, "
                f"then any of {', '.join(_TRACED[1:])}."
            )
        if "Pooling" not in kinds:
            raise UnsupportedModelError(
                f"{self._folder / MODULES}: has no Pooling, so that it gives a vector for each "
                "token; wanted one for each text."
            )
        pooling = self._model[kinds.index("Pooling")]
        if not pooling.include_prompt and any(self._model.prompts.values()):
            raise UnsupportedModelError(
                f"{self._folder}: leaves the prompt's tokens out of its pooling "
                "(include_prompt), which a package's graph cannot tell from the text's."
            )
        similarity = self._model.similarity_fn_name
        if similarity not in (None, "cosine") and "Normalize" not in kinds:
            raise UnsupportedModelError(
                f"{self._folder}: compares vectors by {similarity}, and their lengths count; a "
                "package's have unit length."
            )
        if self._model.truncate_dim is not None:
            raise UnsupportedModelError(
                f"{self._folder}: cuts vectors to {self._model.truncate_dim} dimensions "
                "(truncate_dim); take that out of config_sentence_transformers.json, and cut with "
                "Embedder.encode(truncate_dim=…)."
            )
        if not self._model.tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{self._folder}: its tokenizer has no fast form, which tokenizer.json holds."
            )

    def special_tokens(self) -> tuple[int | None, int, int]:
        """Ids of the token that begins texts, if one does, of the one that ends them, of padding.

        Raises UnsupportedModelError where texts end with no token of their own.
        """
        tokenizer = self._model.tokenizer
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        first, last = full[:start], full[start + len(bare) :]
        if len(first) > 1 or len(last) != 1:
            raise UnsupportedModelError(
                f"{self._folder}: its tokenizer puts the tokens {first} before a text and {last} "
                "behind it; wanted at most one before and one behind."
            )
        pad = tokenizer.pad_token_id
        return (first[0] if first else None), last[0], (pad if pad is not None else 0)

    def write_tokenizer(self, path: Path) -> None:
        """Write the tokenizer, as it is used here, in the form of tokenizer.json."""
        path.write_text(self._model.tokenizer.backend_tokenizer.to_str(), "utf-8")

    def write_config(self, path: Path) -> None:
        """Write the transformer's config.json."""
        path.write_text(json.dumps(self.config, indent=2, default=str) + "\n", "utf-8")

    def trace(self, path: Path, opset: int) -> None:
        """Write all of the model's modules, pooling included, as one ONNX graph.

        Its inputs are input_ids and attention_mask, its output is sentence_embedding. Raises
        UnsupportedModelError where optimum or torch cannot trace it.
        """
        from optimum.exporters.onnx import export
        from optimum.exporters.onnx.model_configs import SentenceTransformersTransformerOnnxConfig

        config = SentenceTransformersTransformerOnnxConfig(
            self._model[0].auto_model.config, task="feature-extraction"
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's tracer warns of all that it fixes
                export(self._model, config, path, opset=opset)
        except Exception as error:  # of whatever the model's code does
            raise UnsupportedModelError(
                f"{self._folder}: optimum {importlib.metadata.version('optimum-onnx')} cannot "
                f"trace this {self.config.get('model_type')} model: {error}"
            ) from error

    def encode(
        self, texts: Sequence[str], max_tokens: int, on_text: Callable[[int], object]
    ) -> Vectors:
        """Embed texts without a prompt, one at a time: (n, dimension) float32 of unit length.

        Texts over `max_tokens` are cut. `on_text` is told how many are done.
        """
        self._model.max_seq_length = max_tokens
        vectors = []
        for done, text in enumerate(texts, 1):
            vectors.append(
                self._model.encode(
                    text, prompt="", normalize_embeddings=True, show_progress_bar=False
                )
            )
            on_text(done)
        return np.stack(vectors).astype(np.float32, copy=False)

    def reference_name(self) -> str:
        """What makes its vectors, for the manifest."""
        version = importlib.metadata.version
        return f"sentence-transformers {version(PACKAGES[1])}, torch {version('torch')}, float32"
