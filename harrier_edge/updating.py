"""Files to the index: what has changed is read, cut, embedded and stored, batch by batch."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from harrier_edge.documents.chunk import Chunk, split
from harrier_edge.documents.document import Document
from harrier_edge.documents.read import read_bytes, read_document
from harrier_edge.documents.walk import Failure, File, find_files
from harrier_edge.encoding import TextEncoder
from harrier_edge.errors import DocumentError
from harrier_edge.paths import is_below, printable
from harrier_edge.store.database import BATCH_CHUNKS, Database
from harrier_edge.store.rows import ChunkRow, Part, StoredDocument
from harrier_edge.store.sources import Source, keep_outcome, sources_of
from harrier_edge.vectors import Vectors

CHUNK_TOKENS = 512
BATCH_DOCUMENTS = 256  # committed together where there is little or nothing to embed
AHEAD_BATCHES = 2  # read and cut while one is embedded
# A file that was written so shortly before it was read may be written again with the same time:
# its bytes are compared once more. FAT has the coarsest clock, of 2 seconds.
SETTLED_SECONDS = 2.0

ChunkMode = Literal["passages", "document"]
OnProgress = Callable[[str, int, int], None]  # stage, done, of how many
T = TypeVar("T")


@dataclass(frozen=True)
class UpdateReport:
    """What was done, in documents but for `chunks`, `reused` and `tokens`.

    `chunks` were embedded, `tokens` are what they had; `reused` chunks had a vector already.
    `skipped` counts by reason what was passed over on purpose; `failed` could not be read.
    """

    added: int
    changed: int
    unchanged: int
    removed: int
    chunks: int
    reused: int
    tokens: int
    skipped: Mapping[str, int]
    failed: tuple[Failure, ...]


@dataclass
class _Tally:
    """An UpdateReport that grows. The reading thread counts documents, the other one the rest."""

    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)

    def report(self) -> UpdateReport:
        names = ("added", "changed", "unchanged", "removed", "chunks", "reused", "tokens")
        return UpdateReport(
            **{name: self.counts[name] for name in names},
            skipped=dict(sorted(self.skipped.items())),
            failed=tuple(self.failed),
        )


@dataclass(frozen=True)
class _Pending:
    """Chunks of a document, from number `first` on, that wait for their vectors.

    `known` are the vectors of those that were stored before, by digest.
    """

    file: File
    document: Document
    sha256: str
    stamp: str
    first: int
    chunks: Sequence[Chunk]
    digests: Sequence[bytes]
    last: bool
    known: Mapping[bytes, Vectors]


@dataclass
class _Batch:
    """What is committed together: parts of documents, and new stamps of those that stay."""

    parts: list[_Pending] = field(default_factory=list)
    stamps: dict[str, str] = field(default_factory=dict)
    bytes: int = 0  # of the files that end in it

    def is_full(self) -> bool:
        chunks = sum(len(part.chunks) for part in self.parts)
        return chunks >= BATCH_CHUNKS or len(self.parts) + len(self.stamps) >= BATCH_DOCUMENTS


class Updater:
    """Brings the documents of sources up to date."""

    def __init__(
        self, database: Database, embedder: Callable[[], TextEncoder], on_progress: OnProgress
    ) -> None:
        """`embedder` is called where there is something to cut or embed."""
        self._database = database
        self._embedder = embedder
        self._on_progress = on_progress

    def update(self, sources: Sequence[Source]) -> UpdateReport:
        """Read what is new, embed what is in no index yet, and forget what is gone.

        A source that does not exist fails, and keeps what is stored of it.
        """
        tally = _Tally()
        plans = [plan for source in sources if (plan := self._plan(source, tally)) is not None]
        total = sum(file.size for plan in plans for file, _ in plan.changed)
        done = 0
        self._on_progress("index", done, total)
        for plan in plans:
            for batch in _ahead(self._batches(plan, tally), AHEAD_BATCHES):
                self._commit(plan.source, batch, tally)
                done += batch.bytes
                self._on_progress("index", done, total)
            for start in range(0, len(plan.gone), BATCH_DOCUMENTS):
                part = plan.gone[start : start + BATCH_DOCUMENTS]
                tally.counts["removed"] += self._database.forget(part)
            tally.skipped.update(plan.skipped)
            self._keep_result(plan, tally)
        self._on_progress("index", total, total)
        return tally.report()

    def _plan(self, source: Source, tally: _Tally) -> _Plan | None:
        """What there is to do for a source. Nothing where its path does not exist."""
        path = Path(source.path)
        try:
            found = find_files(path)
        except DocumentError:
            failure = Failure(
                printable(path), "is gone; bring it back, or remove it from the index"
            )
            self._keep_result(_Plan(source, failed=[failure]), tally)
            return None
        inner = [
            Path(other.path)
            for other in sources_of(self._database)
            if other.path != source.path and path in Path(other.path).parents
        ]
        stored = self._database.documents_below(source.path, os.sep)
        plan = _Plan(source, skipped=found.skipped, failed=found.failed)
        seen = set()
        for file in found.files:
            name = str(file.path)
            if inner and is_below(file.path, inner):
                continue  # another source's, which has settings of its own
            if file.path in self._database.files:
                continue
            seen.add(name)
            document = stored.get(name)
            if (
                document is not None
                and document.complete
                and (document.stamp, document.chunker) == (file.stamp, _chunker(source))
            ):
                tally.counts["unchanged"] += 1
            else:
                plan.changed.append((file, document))
        kept = [*inner, *found.unread]
        plan.gone = [name for name in stored if name not in seen and not is_below(Path(name), kept)]
        return plan

    def _keep_result(self, plan: _Plan, tally: _Tally) -> None:
        """Report what failed, and store what was left out if that is not what is stored."""
        tally.failed += plan.failed
        source = replace(
            plan.source,
            skipped=dict(plan.skipped),
            failed={failure.path: failure.reason for failure in plan.failed},
        )
        if source != plan.source:
            keep_outcome(self._database, source)

    def _batches(self, plan: _Plan, tally: _Tally) -> Iterator[_Batch]:
        """Read and cut what has changed. Runs beside the embedding of the batch before."""
        batch = _Batch()
        for file, stored in plan.changed:
            try:
                for part in self._read(plan.source, file, stored, batch, tally):
                    batch.parts.append(part)
                    if batch.is_full():
                        yield batch
                        batch = _Batch()
            except DocumentError as error:
                plan.failed.append(Failure(printable(file.path), str(error)))
            batch.bytes += file.size
            if batch.is_full():
                yield batch
                batch = _Batch()
        yield batch

    def _read(
        self,
        source: Source,
        file: File,
        stored: StoredDocument | None,
        batch: _Batch,
        tally: _Tally,
    ) -> Iterator[_Pending]:
        """A file's parts that are not stored; none where it only looked as if it had changed."""
        # With the time before reading: a file that changes meanwhile is read again next time.
        stamp = file.stamp if time.time() - file.modified > SETTLED_SECONDS else ""
        data = read_bytes(file.path)
        digest = hashlib.sha256(data).hexdigest()
        same = stored is not None and (stored.sha256, stored.chunker) == (digest, _chunker(source))
        if same and stored is not None and stored.complete:
            tally.counts["unchanged"] += 1
            if stamp != stored.stamp:
                batch.stamps[str(file.path)] = stamp
            return
        document = read_document(file.path, data)
        chunks = self._split(source, document)
        digests = [hashlib.sha256(chunk.embedded.encode()).digest()[:16] for chunk in chunks]
        known = {} if stored is None else self._database.vectors_of(digests)
        tally.counts["added" if stored is None else "changed"] += 1
        start = self._stored_of(stored, digests) if same and stored is not None else 0
        for first in range(start, max(len(chunks), 1), BATCH_CHUNKS):
            end = first + BATCH_CHUNKS
            yield _Pending(
                file=file,
                document=document,
                sha256=digest,
                stamp=stamp,
                first=first,
                chunks=chunks[first:end],
                digests=digests[first:end],
                last=end >= len(chunks),
                known=known,
            )

    def _stored_of(self, stored: StoredDocument, digests: Sequence[bytes]) -> int:
        """How many of a document's chunks are stored as they would be cut now.

        0 where another model's tokens or another reader would have it cut otherwise.
        """
        begun = self._database.digests_of(stored.id)
        return len(begun) if len(begun) < len(digests) and begun == digests[: len(begun)] else 0

    def _split(self, source: Source, document: Document) -> list[Chunk]:
        embedder = self._embedder()
        bare, special = embedder.count_tokens(["", embedder.document_prompt])
        whole = source.chunk == "document"
        size = embedder.max_tokens if whole else min(CHUNK_TOKENS, embedder.max_tokens)

        def count_tokens(texts: Sequence[str]) -> list[int]:
            return [count - bare for count in embedder.count_tokens(texts)]

        return split(document, max(1, size - special), count_tokens, whole=whole)

    def _commit(self, source: Source, batch: _Batch, tally: _Tally) -> None:
        """Embed what has no vector yet, then store the batch in one transaction."""
        if batch.stamps:
            self._database.restamp(batch.stamps)
        if not batch.parts:
            return
        vectors = self._vectors(batch, tally)
        self._database.write([_part(source, part, vectors) for part in batch.parts])

    def _vectors(self, batch: _Batch, tally: _Tally) -> dict[bytes, Vectors]:
        """The vector of every chunk of a batch, by digest."""
        texts = {
            digest: chunk.embedded
            for part in batch.parts
            for digest, chunk in zip(part.digests, part.chunks, strict=True)
        }
        vectors = {digest: v for part in batch.parts for digest, v in part.known.items()}
        vectors |= self._database.vectors_of([d for d in texts if d not in vectors])
        new = [digest for digest in texts if digest not in vectors]
        if new:
            embedder = self._embedder()
            chunks = [texts[digest] for digest in new]
            embedded = embedder.embed(chunks, prompt=embedder.document_prompt)
            vectors |= zip(new, embedded.vectors, strict=True)
            tally.counts["tokens"] += sum(embedded.tokens)
        tally.counts["chunks"] += len(new)
        tally.counts["reused"] += sum(len(part.chunks) for part in batch.parts) - len(new)
        return vectors


@dataclass
class _Plan:
    """What there is to do for one source, and what is left out."""

    source: Source
    changed: list[tuple[File, StoredDocument | None]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)


def _chunker(source: Source) -> str:
    """A name for all that decides what of a file is read and where it is cut.

    Raise its number with the rules of either: what is stored is read again then.
    """
    return "document-2" if source.chunk == "document" else f"passages-{CHUNK_TOKENS}-2"


def _part(source: Source, part: _Pending, vectors: Mapping[bytes, Vectors]) -> Part:
    rows = [
        ChunkRow(
            number=number,
            line=chunk.line,
            end_line=chunk.end_line,
            text=chunk.text,
            heading=chunk.heading,
            start=chunk.start,
            end=chunk.end,
            digest=digest,
        )
        for number, (chunk, digest) in enumerate(
            zip(part.chunks, part.digests, strict=True), part.first
        )
    ]
    return Part(
        path=str(part.file.path),
        title=part.document.title,
        sha256=part.sha256,
        chunks=rows,
        vectors=np.array([vectors[row.digest] for row in rows], np.float32),
        last=part.last,
        collection=source.collection,
        media_type=part.document.media_type,
        modified=part.file.modified,
        size=part.file.size,
        metadata=part.document.metadata,
        stamp=part.stamp,
        chunker=_chunker(source),
    )


def _ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """The same items, made in a thread of their own that is at most `most` ahead.

    What it raises is raised here; whoever stops taking items stops it.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(most)
    stopped = threading.Event()

    def put(item: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="reading", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
