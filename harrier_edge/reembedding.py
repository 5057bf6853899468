"""Another model for an index, whose chunks stay as they are."""

from __future__ import annotations

from collections.abc import Callable

from harrier_edge.documents.chunk import embedded_text
from harrier_edge.encoding import TextEncoder
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import BATCH_CHUNKS, Database
from harrier_edge.store.exchange import Exchange


def reembed(
    database: Database,
    embedder: TextEncoder,
    model: StoredModel,
    on_progress: Callable[[str, int, int], None],
) -> int:
    """Embed all chunks again and make `model` the index's; how many were embedded in this run.

    Until the last one is there the index answers with its old model, to other processes too. What
    an interruption leaves is taken up by the next call with the same model. Raises StoreError where
    another process gives the index a model at the same time.
    """
    exchange = Exchange(database, model)
    exchange.begin()
    embedded = 0
    while True:
        batch = exchange.missing(BATCH_CHUNKS)
        if batch:
            texts = [embedded_text(chunk.heading, chunk.text) for chunk in batch]
            embedded_texts = embedder.embed(texts, prompt=embedder.document_prompt)
            exchange.put(batch, embedded_texts.vectors)
            embedded += len(batch)
            on_progress("reembed", *exchange.progress())
        elif exchange.finish():
            return embedded
