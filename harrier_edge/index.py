"""Index: documents in, passages out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from harrier_edge.documents.chunk import Chunk, split, title_of
from harrier_edge.documents.read import absolute, decode, find_files, read_bytes
from harrier_edge.embedder import Embedder
from harrier_edge.errors import DocumentError, ModelMismatchError, UsageError
from harrier_edge.package import find_package
from harrier_edge.reembedding import reembed
from harrier_edge.searching import CANDIDATES, Hit, Mode, SearchOptions, search
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import ChunkRow, Database, Part
from harrier_edge.store.upkeep import backup, check, compact
from harrier_edge.vectors import STORES, Vectors

CHUNK_TOKENS = 512
BATCH_CHUNKS = 64  # embedded, then committed: what an interruption can cost

OnProgress = Callable[[str, int, int], None]  # stage, done, of how many


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class AddReport:
    """What `Index.add` did, in documents but for `chunks` and `tokens`, which were embedded."""

    added: int
    changed: int
    unchanged: int
    chunks: int
    tokens: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class IndexStatus:
    """What an index holds; `incomplete` documents have only their first chunks yet."""

    path: Path
    bytes: int
    schema_version: int
    documents: int
    incomplete: int
    chunks: int
    model: StoredModel


class Index:
    """An index file with the model that fills it. Safe to share between threads."""

    def __init__(self, database: Database, model: Embedder | Path | None) -> None:
        """For `Index.open`. `model` is loaded at its first use; None stands for the stored one."""
        self._database = database
        self._model = model

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: str | Path | Embedder | None = None,
        precision: str | None = None,
        store: str = "float32",
        create: bool = True,
    ) -> Index:
        """Open the index file `path`; where there is none and `create`, make one for `model`.

        `model` is an Embedder, a package's folder or a model's name; an index that exists knows
        its own, so it may be left out. The model is loaded when it is first needed. A new index
        stores vectors as `store`: "float32", "int8" (a quarter) or "float16" (half of the space).

        Raises ModelMismatchError where the index was built by another model, UsageError where a
        new one is given no model, ForeignDatabaseError where the file is something else or
        damaged, and StoreError where it cannot be opened.
        """
        if store not in STORES:
            raise UsageError(f"store is {store!r}; wanted one of: {', '.join(STORES)}.")
        path = absolute(Path(path))
        wanted = None
        package: Embedder | Path | None = None
        if isinstance(model, Embedder):
            package, wanted = model, _identity(model.manifest, model.package)
        elif model is not None:
            package = find_package(model, precision)
            wanted = _identity(read_table(package / MANIFEST_NAME, PackageManifest), package)
        elif create and not path.exists():
            raise UsageError(
                f"{path}: a new index needs a model. Name a package with --model or "
                "$HARRIER_EDGE_MODEL, in Python with model=."
            )
        new = replace(wanted, store=store) if wanted and create else None
        database = Database(path, create=new)
        try:
            if wanted is not None:
                _check_model(database, wanted)
                if wanted.package != database.model.package and create:
                    database.move_package(wanted.package)
        except BaseException:
            database.close()
            raise
        return cls(database, package)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def embedder(self) -> Embedder:
        """The model, loaded at the first use. Raises what `Embedder` and `open` raise."""
        if not isinstance(self._model, Embedder):
            embedder = Embedder(self._model or Path(self._database.model.package))
            _check_model(self._database, _identity(embedder.manifest, embedder.package))
            self._model = embedder
        return self._model

    def add(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        on_progress: OnProgress = lambda stage, done, total: None,
    ) -> AddReport:
        """Index files, and the text and Markdown files in folders.

        A document whose bytes are what they were is skipped; one that has changed is replaced.
        Chunks are embedded and committed batch by batch, so that what an interruption leaves is
        sound and the next call goes on from there. A file that cannot be read is reported, and
        what was stored of it stays.

        Raises DocumentError where a path does not exist, StoreError where the disk is full.
        """
        files = find_files(_paths(paths))
        counts = dict.fromkeys(("added", "changed", "unchanged", "chunks", "tokens"), 0)
        skipped: list[Skipped] = []
        batch: list[_Pending] = []
        for done, path in enumerate(files):
            on_progress("index", done, len(files))
            try:
                data = read_bytes(path)
                digest = hashlib.sha256(data).hexdigest()
                stored = self._database.document(str(path))
                same = stored is not None and stored.sha256 == digest
                if same and stored and stored.complete:
                    counts["unchanged"] += 1
                    continue
                text = decode(data)
            except DocumentError as error:
                skipped.append(Skipped(_printable(path), str(error)))
                continue
            counts["added" if stored is None else "changed"] += 1
            start = stored.chunks if same and stored else 0
            for pending in self._chunks(path, digest, text, start):
                batch.append(pending)
                if sum(len(p.chunks) for p in batch) >= BATCH_CHUNKS:
                    self._commit(batch, counts)
                    batch = []
        self._commit(batch, counts)
        on_progress("index", len(files), len(files))
        return AddReport(**counts, skipped=tuple(skipped))

    def _chunks(self, path: Path, digest: str, text: str, start: int) -> Iterator[_Pending]:
        """A document's chunks from number `start` on, in parts that fit a batch."""
        chunks = split(text, self._chunk_tokens(), self._count_tokens)
        title = title_of(text, path.stem)
        step = BATCH_CHUNKS
        for first in range(start, max(len(chunks), start + 1), step):
            part = chunks[first : first + step]
            last = first + step >= len(chunks)
            yield _Pending(str(path), title, digest, first, part, last)

    def _chunk_tokens(self) -> int:
        return max(1, min(CHUNK_TOKENS, self.embedder.max_tokens) - self._special_tokens())

    def _special_tokens(self) -> int:
        return self.embedder.count_tokens([""])[0]

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        special = self._special_tokens()
        return [count - special for count in self.embedder.count_tokens(texts)]

    def _commit(self, batch: Sequence[_Pending], counts: dict[str, int]) -> None:
        """Embed a batch, then store it in one transaction."""
        if not batch:
            return
        embedded = self.embedder.embed([chunk.text for p in batch for chunk in p.chunks])
        parts = []
        row = 0
        for p in batch:
            vectors = embedded.vectors[row : row + len(p.chunks)]
            row += len(p.chunks)
            rows = [
                ChunkRow(number, chunk.line, chunk.end_line, chunk.text)
                for number, chunk in enumerate(p.chunks, p.first)
            ]
            parts.append(Part(p.path, p.title, p.sha256, rows, vectors, p.last))
        self._database.write(parts)
        counts["chunks"] += row
        counts["tokens"] += sum(embedded.tokens)

    def search(
        self,
        query: str,
        top_k: int = 10,
        *,
        mode: Mode = "hybrid",
        min_score: float | None = None,
        filters: str | Sequence[str] = (),
        every_chunk: bool = False,
        candidates: int = CANDIDATES,
        exact: bool = False,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
    ) -> list[Hit]:
        """The `top_k` best passages for `query`, best first; equal scores in the order of ids.

        `mode` "vector" ranks by cosine (the score, 0 at the least), "text" by words (BM25), and
        "hybrid" fuses both rankings by reciprocal rank. In the last two, `"a phrase"` must be
        there, `-word` must not, and `prefix*` stands for all words that begin so. A hit below
        `min_score` is left out.

        Only documents that meet all `filters` are ranked at all: `path=notes/*.md`,
        `type=text/html`, `collection=work`, `modified>=2025-01-31`, `author=Zoë`, `year<2000`
        (store/filters.py has all forms). Of each document the best passage is given, or with
        `every_chunk` all that rank.

        Vectors are first compared by their signs; the best `candidates`, and at least twice
        `top_k`, by their whole. More find more of the true best, `exact` all. The query gets the
        model's instruction, or what `prompt`, `prompt_name` or `task` say, as in
        `Embedder.encode_query`.

        Raises UsageError where an argument cannot work.
        """
        options = SearchOptions(
            mode=mode,
            min_score=min_score,
            filters=[filters] if isinstance(filters, str) else filters,
            every_chunk=every_chunk,
            candidates=candidates,
            exact=exact,
        )

        def embed(text: str) -> Vectors:
            return self.embedder.encode_query(
                text, prompt=prompt, prompt_name=prompt_name, task=task
            )

        return search(self._database, embed, query, top_k, options)

    def remove(self, paths: str | Path | Sequence[str | Path]) -> int:
        """Forget files, or all files in folders; how many documents that were."""
        return sum(self._database.remove(str(absolute(p)), os.sep) for p in _paths(paths))

    @classmethod
    def reembed(
        cls,
        path: str | Path,
        model: str | Path | Embedder,
        *,
        precision: str | None = None,
        store: str | None = None,
        on_progress: OnProgress = lambda stage, done, total: None,
    ) -> int:
        """Give the index at `path` another model, or store its vectors as `store`.

        Its chunks stay and are embedded again; the index answers with its old model until all are.
        An interrupted run is taken up by the next. Returns how many chunks this run embedded.

        Raises what `open` raises, and UsageError where `store` is unknown.
        """
        if store is not None and store not in STORES:
            raise UsageError(f"store is {store!r}; wanted one of: {', '.join(STORES)}.")
        embedder = model if isinstance(model, Embedder) else Embedder(model, precision=precision)
        with cls.open(path, create=False) as index:
            database = index._database
            identity = _identity(embedder.manifest, embedder.package)
            wanted = replace(identity, store=store or database.model.store)
            if replace(wanted, package="") == replace(database.model, package=""):
                return 0
            return reembed(database, embedder, wanted, on_progress)

    def compact(self) -> tuple[int, int]:
        """Give back the space that deletions have left: the file's bytes before and after."""
        return compact(self._database)

    def backup(self, target: str | Path) -> None:
        """Copy the index to a new file while it is in use. Raises StoreError where that fails."""
        backup(self._database, absolute(Path(target)))

    def check(self) -> list[str]:
        """What is wrong with the index file, in words; nothing where it is sound. Reads it all."""
        return check(self._database)

    def status(self) -> IndexStatus:
        """What the index holds. The model is not loaded."""
        counts = self._database.counts()
        return IndexStatus(
            path=self._database.path,
            bytes=self._database.path.stat().st_size,
            schema_version=self._database.schema_version,
            documents=counts.documents,
            incomplete=counts.incomplete,
            chunks=counts.chunks,
            model=self._database.model,
        )


@dataclass(frozen=True)
class _Pending:
    """Chunks of a document, from number `first` on, that wait for their vectors."""

    path: str
    title: str
    sha256: str
    first: int
    chunks: Sequence[Chunk]
    last: bool


def _identity(manifest: PackageManifest, package: Path) -> StoredModel:
    return StoredModel(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        precision=manifest.precision.name,
        dimension=manifest.dimension,
        package=str(absolute(package)),
    )


def _check_model(database: Database, wanted: StoredModel) -> None:
    """Raise ModelMismatchError where the index holds vectors of another model."""
    stored = database.model
    for what in ("fingerprint", "dimension", "precision"):
        seen, needed = getattr(wanted, what), getattr(stored, what)
        if seen != needed:
            raise ModelMismatchError(
                f"{database.path}: was built by {stored.name} in {stored.precision} ({what} "
                f"{needed}), not by {wanted.name} in {wanted.precision} ({what} {seen}). Open it "
                f"with the package in {stored.package}, or change the index with: "
                f"harrier-edge reembed --db {database.path} -m {wanted.package}"
            )


def _paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]


def _printable(path: Path) -> str:
    """A path that any terminal and JSON can hold."""
    return os.fsencode(path).decode("utf-8", "replace")
