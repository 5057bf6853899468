"""PyTorch through sentence-transformers."""

from __future__ import annotations

from pathlib import Path

from protocol import Contender, Embed, Ids, Vectors, in_batches, padded, shape_of


def sentence_transformers(dtype: str) -> Contender:
    """The checkpoint as it is: transformer, last-token pooling, normalization."""

    def load(files: Path, checkpoint: Path) -> Embed:
        import torch
        from sentence_transformers import SentenceTransformer

        pad_token = shape_of(checkpoint).pad_token
        model = SentenceTransformer(
            str(files), device="cpu", model_kwargs={"torch_dtype": getattr(torch, dtype)}
        )
        # Which makes no tokens, but without this keeps keys and values that nobody reads.
        model[0].auto_model.config.use_cache = False

        def run(batch: Ids) -> Vectors:
            ids, mask = (torch.from_numpy(array) for array in padded(batch, pad_token))
            with torch.inference_mode():
                result = model({"input_ids": ids, "attention_mask": mask})
            vectors: Vectors = result["sentence_embedding"].float().numpy()
            return vectors

        return in_batches(run)

    return Contender(lambda checkpoint: checkpoint, load)
