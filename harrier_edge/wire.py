"""What goes over the wire: requests and answers, as OpenAI's and TEI's interfaces have them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec
import numpy as np

from harrier_edge.encoding import OnOverflow
from harrier_edge.errors import UsageError
from harrier_edge.vectors import Vectors

MAX_TEXTS = 2048  # of one request, as at OpenAI
LARGEST_ID = 2**31 - 1
OWNER = "harrier-edge"  # of a model: its server understands what is an addition here
TOO_LONG = "context_length_exceeded"  # OpenAI's code

Input = str | list[str | int | list[int]]  # a text, texts, a text's token ids, or those of texts
InputType = Literal["query", "document"]


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What both interfaces let say, the last three only here. Unknown keys are passed over."""

    model: str = ""  # empty: the first one that is served
    prompt: str | None = None
    prompt_name: str | None = None
    task: str | None = None


class EmbeddingsRequest(Request, frozen=True, kw_only=True, omit_defaults=True):
    """The body of POST /v1/embeddings; what is not OpenAI's has a default."""

    input: Input
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    input_type: InputType | None = None  # whose prompt to put before the texts; None for none
    on_overflow: OnOverflow = "error"


class EmbedRequest(Request, frozen=True, kw_only=True):
    """The body of TEI's POST /embed."""

    inputs: Input
    truncate: bool = False
    normalize: bool = True
    dimensions: int | None = None
    input_type: InputType | None = None


class CountRequest(msgspec.Struct, frozen=True):
    """The body of POST /v1/token_counts: texts whose tokens are to be counted."""

    input: list[str]
    model: str = ""


class Counts(msgspec.Struct, frozen=True):
    """The answer: the number of tokens of each text, special ones included, before any cut."""

    counts: list[int]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request, those of prompts and special ones included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    """The vector of one text; `tokens` embedded, and `cut_tokens` left out, are an addition."""

    index: int
    embedding: str | list[float]
    object: str = "embedding"
    tokens: int | None = None
    cut_tokens: int = 0


class EmbeddingList(msgspec.Struct, frozen=True):
    """The answer of POST /v1/embeddings."""

    data: list[Embedding]
    model: str = ""
    object: str = "list"
    usage: Usage = Usage(0, 0)


class ServedModel(msgspec.Struct, frozen=True):
    """A model in GET /v1/models; the part from `fingerprint` on is an addition."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = ""
    name: str = ""
    fingerprint: str = ""
    precision: str = ""
    dimension: int = 0
    max_tokens: int = 0
    prompts: dict[str, str] = {}
    query_preset: str = ""
    document_preset: str = ""
    fidelity: float | None = None  # its measured mean cosine to the original model


class ModelList(msgspec.Struct, frozen=True):
    """The answer of GET /v1/models."""

    data: list[ServedModel]
    object: str = "list"


class Fault(msgspec.Struct, frozen=True):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: Fault


T = TypeVar("T", bound=msgspec.Struct)


def key_bytes(key: str) -> bytes:
    """An API key as it is sent and compared: in UTF-8.

    Raises UsageError where a header does not hold it as it is.
    """
    if not key.isprintable() or key != key.strip():
        raise UsageError(  # without the key, which is nobody's to see
            "the API key has a line's end, another character that cannot be printed, or a space "
            "at one of its ends; wanted none of these. Look into $HARRIER_EDGE_API_KEY, or what "
            "was given instead."
        )
    return key.encode()


def decode(body: bytes | bytearray, kind: type[T]) -> T:
    """Read a body as `kind`. Raises UsageError where it is not JSON of that form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise UsageError("the body's JSON is nested too deeply.") from None
    except ValueError as error:  # msgspec's own and Unicode's; none repeats what the body says
        raise UsageError(f"the body is not the JSON that is wanted here: {error}") from None


def texts_or_ids(given: Input) -> tuple[list[str], list[list[int]]]:
    """The texts of an input, or their token ids; the other one is empty.

    Raises UsageError where there is nothing, too much, a mixture, or no token id.
    """
    if isinstance(given, str):
        return [given], []
    if not given:
        raise UsageError("there is no input; wanted one text or more.")
    texts = [one for one in given if isinstance(one, str)]
    ids = [one for one in given if isinstance(one, list)]
    if len(texts) == len(given) or len(ids) == len(given):
        if len(given) > MAX_TEXTS:
            raise UsageError(f"there are {len(given)} inputs; at most {MAX_TEXTS} go at once.")
    elif texts or ids:
        raise UsageError("the input is a mixture; wanted texts, or token ids, or lists of those.")
    else:
        ids = [[one for one in given if isinstance(one, int)]]
    for one in ids:
        if not one or min(one) < 0 or max(one) > LARGEST_ID:
            raise UsageError("the input has an empty list, or a number that is no token id.")
    return texts, ids


def to_wire(vectors: Vectors, encoding: Literal["float", "base64"]) -> Sequence[str | list[float]]:
    """Vectors (n, dimension) as JSON has them: lists of floats, or float32 in base64."""
    if encoding == "float":
        rows: list[list[float]] = vectors.tolist()
        return rows
    little = vectors.astype("<f4", copy=False)
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in little]


def from_wire(rows: Sequence[str | list[float]]) -> Vectors:
    """What `to_wire` made, as (n, dimension) float32.

    Raises ValueError where the rows are no vectors, or not of one length.
    """
    return np.array(
        [
            np.frombuffer(base64.b64decode(row, validate=True), "<f4")
            if isinstance(row, str)
            else row
            for row in rows
        ],
        np.float32,
    )
