"""What is known of a model: the catalogue's ModelSpec and a package's PackageManifest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from harrier_edge.errors import SpecError

# Written into new manifests. A format is raised when manifests get a table or key that older
# releases do not know; what they have known stays readable.
MANIFEST_FORMAT = 6
READABLE_FORMATS = (1, 2, 3, 4, 5, 6)
FAITHFUL = 0.998  # the mean cosine from which on a package can stand for the original model
MANIFEST_NAME = "manifest.toml"


class Table(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A TOML table whose every key is known and typed.

    Its subclasses repeat `frozen=True` for mypy, which does not see that it is inherited.
    """


class FileRecord(Table, frozen=True):
    """What a file must be. `size` is in bytes; a field is absent where it is not known."""

    sha256: str | None = None
    size: int | None = None


class Source(Table, frozen=True):
    """Where a model comes from. An empty `revision` means: not pinned yet."""

    repository: str
    revision: str
    adapted_from: str
    files: dict[str, FileRecord]


class OnnxSource(Table, frozen=True):
    """Where others publish a model as ONNX."""

    repository: str
    revision: str
    files: dict[str, FileRecord]


class Shape(Table, frozen=True):
    """The size of a decoder, in the field's usual words."""

    architecture: str  # config.json's model_type
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    parameters: int


class Attention(Table, frozen=True):
    """How the layers attend, in config.json's words where it has them."""

    layers: Literal["full", "5 sliding, 1 full"]  # causal in every case
    rope_theta: float  # of the full layers
    query_pre_attn_scalar: int  # scores are scaled by this to the power -0.5
    rope_scaling_factor: float | None = None  # linear, in the full layers only
    rope_local_base_freq: float | None = None  # RoPE theta of the sliding layers
    sliding_window: int | None = None  # in tokens; no layer uses it where all are full


class Tokens(Table, frozen=True):
    """Special token ids and the token limit, final token included."""

    final: int  # the last token of every input; the embedding is taken there
    pad: int
    max_tokens: int
    bos: int | None = None


class ModelSpec(Table, frozen=True):
    """A model of the catalogue, as in `models/NAME.toml`."""

    name: str
    title: str
    licence: str
    languages: int
    dimension: int
    mteb_v2_multilingual: float
    source: Source
    shape: Shape
    attention: Attention
    tokens: Tokens
    prompts: dict[str, str]
    inferred: list[str]  # dotted keys that are inferred, not read from the published files
    onnx: OnnxSource | None = None  # an ONNX export of it by others


class PackageFile(Table, frozen=True):
    """A file of a package."""

    sha256: str
    size: int  # bytes


class Precision(Table, frozen=True):
    """How the weights are written."""

    name: str
    linear: str
    embedding: str
    calibrated: bool | None = None  # by real text; absent where that is no choice; since format 4


class Parity(Table, frozen=True):
    """How close the package is to its reference, as cosine over `texts` real texts."""

    reference: str
    texts: int
    mean_cosine: float
    min_cosine: float


UnicodeForm = Literal["", "NFC", "NFKC"]


class CompiledTokenizer(Table, frozen=True):
    """`tokenizer.kitoken`, which gives the ids of `tokenizer.json` and loads many times faster."""

    kitoken: str  # the release that wrote it, and the only one that reads it for certain
    first: list[int]  # the ids that begin every input
    texts: int  # on how many texts the ids were found to be the same
    nfc: bool = False  # before format 5: whether `form` is NFC
    form: UnicodeForm = ""  # of the only texts that it takes; since format 5

    def only_form(self) -> UnicodeForm:
        """Unicode's form of the only texts that it takes; empty where it takes all."""
        return "NFC" if self.nfc else self.form


class Sample(Table, frozen=True):
    """A text, and the vector that the package gave for it where it was made."""

    text: str
    vector: str  # (dimension,) float32, little-endian, of unit length, in base64


class PackageManifest(Table, frozen=True):
    """All that the runtime needs to know of a model package, as in `manifest.toml`."""

    format: int
    name: str
    architecture: str
    licence: str
    fingerprint: str  # sha256 over the source checkpoint: the same in every precision
    dimension: int
    tokens: Tokens
    prompts: dict[str, str]
    query_prompt: str  # the preset that a query gets by itself; empty for none
    precision: Precision
    files: dict[str, PackageFile]
    versions: dict[str, str]
    repository: str = ""
    revision: str = ""
    parity: Parity | None = None
    compiled_tokenizer: CompiledTokenizer | None = None  # since format 2
    document_prompt: str = ""  # the preset that a document gets by itself; since format 3
    # Whether a text has the same vector beside longer ones, padded, as alone; since format 3.
    padding: bool = True
    # Whether it has the same beside texts of its own length, too; since format 4.
    batching: bool = True
    # Whether its graphs run as they are written: an optimizer has nothing to do; since format 6.
    optimized: bool = False
    sample: Sample | None = None  # since format 3
    vocab_size: int | None = None  # rows of the embedding table; since format 4


class ManifestFormat(msgspec.Struct):
    """The one key that can be read in a manifest of any format."""

    format: int


T = TypeVar("T", bound=msgspec.Struct)


def read_table(path: Path, kind: type[T]) -> T:
    """Read a TOML file as `kind`.

    Raises SpecError, naming the file and the key, where the file is not TOML, has a key that
    `kind` does not know, lacks one, or holds a value of another type.
    """
    return as_table(read_toml(path), kind, path)


def read_toml(path: Path) -> dict[str, object]:
    """What a TOML file holds. Raises SpecError."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=dict[str, object])
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: {error}. Correct it, or restore the file.") from error


def as_table(held: dict[str, object], kind: type[T], path: Path) -> T:
    """What was read from the file `path`, as `kind`. Raises SpecError."""
    try:
        return msgspec.convert(held, kind)
    except msgspec.ValidationError as error:
        raise SpecError(f"{path}: {error}. Correct that key, or restore the file.") from error
