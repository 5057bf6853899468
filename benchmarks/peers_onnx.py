"""ONNX Runtime over the exports that others make: optimum, `MatMulNBits`, fastembed."""

from __future__ import annotations

import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Contender, Embed, Ids, Vectors, cores, in_batches, padded, shape_of, unit

MODEL = "model.onnx"


def optimum_float32() -> Contender:
    """optimum's export; last-token pooling and normalization happen outside the graph."""
    return Contender(_optimum, _load_hidden_states)


def optimum_int8() -> Contender:
    """The same after optimum's dynamic quantization for AVX512-VNNI."""
    return Contender(_optimum_int8, _load_hidden_states)


def matmul_nbits(bits: int) -> Contender:
    """The products of this project's float graph in `MatMulNBits`, as the community exports them.

    Over our graph and not optimum's, since its attention is fused: the faster peer.
    """

    def files(checkpoint: Path) -> Path:
        from standins.folder import cache, whole
        from standins.packages import cached_package

        package = cached_package(checkpoint, "fp32")
        target = cache() / "peers" / f"{package.name}-matmulnbits{bits}"
        if not target.exists():
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            for old in target.parent.glob(f"{checkpoint.name}-fp32-*-matmulnbits{bits}"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=cache()) as scratch:
                # onnx refuses data with a second hard link, such as packed weights have.
                graph = shutil.copytree(package, Path(scratch, "fp32")) / MODEL
                quantizer = MatMulNBitsQuantizer(
                    str(graph),
                    bits=bits,
                    block_size=32,
                    is_symmetric=True,
                    # Products of 8-bit integers: by default, every call would expand the weights.
                    accuracy_level=4,
                )
                quantizer.process()
                with whole(target) as folder:
                    quantizer.model.save_model_to_file(str(folder / MODEL), True)
        return target

    def load(files: Path, checkpoint: Path) -> Embed:
        session = _session(files / MODEL)
        pad_token = shape_of(checkpoint).pad_token

        def run(batch: Ids) -> Vectors:
            ids, mask = padded(batch, pad_token)
            feeds = {"input_ids": ids, "attention_mask": mask}
            vectors: Vectors = session.run(["sentence_embedding"], feeds)[0]
            return vectors

        return in_batches(run)

    return Contender(files, load)


def fastembed() -> Contender:
    """fastembed with optimum's float export as a custom model.

    Its own session, batches, pooling and normalization; only its tokenizer is replaced, by one
    that is given the ids.
    """

    def load(files: Path, checkpoint: Path) -> Embed:
        # By name: a type checker need not find this optional peer.
        library = import_module("fastembed")
        descriptions = import_module("fastembed.common.model_description")
        name = "stand-in"
        library.TextEmbedding.add_custom_model(
            name,
            pooling=descriptions.PoolingType.LAST_TOKEN,
            normalization=True,
            sources=descriptions.ModelSource(hf="not/downloaded"),
            dim=shape_of(checkpoint).dimension,
            model_file=MODEL,
        )
        model = library.TextEmbedding(
            name, threads=cores(), specific_model_path=str(files), lazy_load=True
        )
        tokenizer = _GivenIds(shape_of(checkpoint).pad_token)
        model.model.tokenizer = tokenizer
        model.model.load_onnx_model()

        def embed(texts: Ids, batch: int) -> Vectors:
            tokenizer.texts = texts
            rows = model.embed([str(row) for row in range(len(texts))], batch_size=batch)
            return np.stack(list(rows))

        return embed

    return Contender(_optimum, load)


class _Encoding:
    """One text as the `tokenizers` library gives it."""

    def __init__(self, ids: list[int], mask: list[int]) -> None:
        self.ids, self.attention_mask = ids, mask


class _GivenIds:
    """A tokenizer for which the text "7" has the ids of `texts[7]`."""

    def __init__(self, pad_token: int) -> None:
        self._pad_token = pad_token
        self.texts: Ids = ()

    def encode_batch(self, rows: list[str]) -> list[_Encoding]:
        ids, mask = padded([self.texts[int(row)] for row in rows], self._pad_token)
        return [_Encoding(i, m) for i, m in zip(ids.tolist(), mask.tolist(), strict=True)]


def _optimum(checkpoint: Path) -> Path:
    from standins.optimum import optimum_export

    return optimum_export(checkpoint)


def _optimum_int8(checkpoint: Path) -> Path:
    from standins.folder import cache, whole

    target = cache() / "peers" / f"optimum-{checkpoint.name}-int8"
    if not target.exists():
        from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

        quantizer = ORTQuantizer.from_pretrained(_optimum(checkpoint), file_name=MODEL)
        # A scale for every column: as fast as one for all, and more faithful.
        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
        with whole(target) as folder:
            quantizer.quantize(config, folder, file_suffix=None)
    return target


def _load_hidden_states(files: Path, checkpoint: Path) -> Embed:
    session = _session(files / MODEL)
    pad_token = shape_of(checkpoint).pad_token
    inputs = {each.name for each in session.get_inputs()}

    def run(batch: Ids) -> Vectors:
        ids, mask = padded(batch, pad_token)
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in inputs:  # of decoders; padding is on the right
            feeds["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        states = session.run(["last_hidden_state"], feeds)[0]
        return unit(states[np.arange(len(batch)), mask.sum(1) - 1])

    return in_batches(run)


def _session(model: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
