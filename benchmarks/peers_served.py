"""A contender behind FastAPI, as such models are usually served: `peers_served.py NAME PORT`.

The texts of a request are one batch, and one request is embedded after the other on all cores:
side by side, the peers' threads get in each other's way.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import contenders
import fastapi
import pydantic
import uvicorn
from standins.gemma3_270m import gemma3_270m

from harrier_edge.tokens import Tokenizer


class Request(pydantic.BaseModel):
    """OpenAI's, as far as it is used."""

    input: list[str]


def application(name: str, checkpoint: Path) -> fastapi.FastAPI:
    """An app that answers POST /v1/embeddings by the contender `name`."""
    contender = contenders.PEERS[name]
    embed = contender.load(contender.files(checkpoint), checkpoint)
    tokenizer = Tokenizer(checkpoint / "tokenizer.json", final_token=1, max_tokens=8192)
    turn = threading.Lock()
    app = fastapi.FastAPI()

    def embeddings(request: Request) -> dict[str, object]:
        """In a thread of FastAPI's pool, since it is no coroutine."""
        ids = [text.ids for text in tokenizer.encode(request.input)]
        with turn:
            vectors = embed(ids, len(ids))
        rows = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors.tolist())
        ]
        tokens = sum(map(len, ids))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": rows, "model": name, "usage": usage}

    app.add_api_route("/v1/embeddings", embeddings, methods=["POST"])
    return app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1], gemma3_270m()), port=int(sys.argv[2]), log_level="error")
