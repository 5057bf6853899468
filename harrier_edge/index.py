"""Index: documents in, passages out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from harrier_edge.admission import (
    admit,
    find_model,
    identity,
    loaded,
    may_query,
    require_same,
    stored_model,
)
from harrier_edge.documents.watch import moments
from harrier_edge.encoding import TextEncoder
from harrier_edge.errors import DocumentError, UsageError
from harrier_edge.memos import recall_all, remember
from harrier_edge.package import default_package, find_package, package_folder
from harrier_edge.paths import absolute, is_below, printable
from harrier_edge.places import index_file
from harrier_edge.searching import Hit, Mode, SearchOptions, search
from harrier_edge.store.connection import StoredModel, is_blank
from harrier_edge.store.database import Database
from harrier_edge.store.sources import Source, put_source, sources_of
from harrier_edge.store.upkeep import backup, check, compact
from harrier_edge.vectors import STORES, Vectors

if TYPE_CHECKING:
    # A search pays for no import of what fills an index.
    from harrier_edge.updating import ChunkMode, OnProgress, Updater, UpdateReport

_INDEXES = "indexes"


@dataclass(frozen=True)
class IndexStatus:
    """What an index holds; `incomplete` documents have only their first chunks yet.

    `sources` are the files and folders that are indexed, with what was left out of them.
    """

    path: Path
    bytes: int
    schema_version: int
    documents: int
    incomplete: int
    chunks: int
    model: StoredModel
    packed_bytes: int  # what the model's packed weights take in the cache
    sources: tuple[Source, ...]


class Index:
    """An index file with the model that fills it. Safe to share between threads."""

    def __init__(self, database: Database, model: TextEncoder | Path | None) -> None:
        """For `Index.open`. `model` is loaded at its first use; None stands for the stored one."""
        self._database = database
        self._model = model
        self._guest: StoredModel | None = None  # what may query, but not add

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: str | Path | TextEncoder | None = None,
        precision: str | None = None,
        store: str | None = None,
        create: bool = True,
    ) -> Index:
        """Open the index file `path`; where there is none and `create`, make one for `model`.

        `model` is an Embedder or RemoteEmbedder, a package's folder, a model's name, or a server's
        model as "http://HOST:PORT#MODEL"; an index that exists knows its own, and a new one takes
        `default_package`, so it may be left out. `precision` chooses among a name's packages, also
        of the index's own model. The model is loaded when it is first needed. A new index stores
        vectors as `store`: "float32" (the default), "int8" (a quarter) or "float16" (half of the
        space).

        The same model in another precision may query where both packages were measured to have a
        mean cosine of 0.998 or more to the original, and a warning says so; it may not add.

        Raises ModelMismatchError where the index was built by another model, UsageError where a
        new one is given no model and there is no default or an existing one stores vectors
        otherwise, ForeignDatabaseError where the file is something else or damaged, and
        StoreError where it cannot be opened.
        """
        if store is not None:
            _check_store(store)
        path = absolute(Path(path))
        chosen: TextEncoder | Path | None = None
        if model is not None:
            chosen = find_model(model, precision)
        elif create and is_blank(path):
            chosen = default_package(precision)
        wanted = identity(chosen) if chosen is not None else None
        new = replace(wanted, store=store or "float32") if wanted and create else None
        database = Database(path, create=new)
        try:
            stored = database.model
            if wanted is None and precision not in (None, stored.precision):
                chosen = find_package(stored.name, precision)
                wanted = identity(chosen)
            index = cls(database, chosen)
            if wanted is not None:
                index._guest = admit(path, stored, wanted)
                moved = index._guest is None and wanted.package != stored.package
                if create and moved and not database.read_only:
                    database.move_package(wanted.package)
            if store not in (None, stored.store):
                raise UsageError(
                    f"{path}: stores vectors as {stored.store}, not as {store}. Change that with: "
                    f"harrier-edge reembed --db {path} -m {stored.package} --store {store}"
                )
        except BaseException:
            database.close()
            raise
        remember(_INDEXES, path, str(path))
        return index

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
    def embedder(self) -> TextEncoder:
        """The model, loaded at the first use. Raises what `Embedder` and `open` raise."""
        if not isinstance(self._model, TextEncoder):
            stored = self._database.model
            embedder = loaded(self._model or stored_model(stored))
            seen = identity(embedder)
            if self._guest is None or not may_query(seen, stored):
                require_same(self._database.path, stored, seen)
            self._model = embedder
        return self._model

    def add(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        collection: str | None = None,
        chunk: ChunkMode | None = None,
        on_progress: OnProgress = lambda stage, done, total: None,
    ) -> UpdateReport:
        """Index files and folders, which become sources of the index, and bring them up to date.

        A document whose bytes are what they were is skipped; of one that has changed, the chunks
        that are new are embedded; one whose file is gone from a folder is forgotten. Every batch is
        committed, so that what an interruption leaves is sound and the next call goes on from
        there. A file that cannot be read is reported, and what was stored of it stays.

        `collection` is a name to search by. `chunk` is "passages", or "document" to embed each
        document whole as far as the model takes it. By default both are as they were, at first
        "" and "passages".

        Raises DocumentError where a path does not exist, UsageError where `chunk` cannot work,
        StoreError where the disk is full.
        """
        if chunk not in (None, "passages", "document"):
            raise UsageError(f"chunk is {chunk!r}; wanted 'passages' or 'document'.")
        updater = self._updater(on_progress)
        wanted = [absolute(path) for path in _paths(paths)]
        for path in wanted:
            if not path.exists():
                raise DocumentError(f"{path}: no such file or folder. Check the path.")
            if printable(path) != str(path):
                raise DocumentError(f"{printable(path)}: its name is not UTF-8. Rename it.")
        known = {source.path: source for source in sources_of(self._database)}
        sources = []
        for name in dict.fromkeys(map(str, wanted)):
            before = known.get(name, Source(name, "", "passages", {}, {}))
            source = replace(
                before,
                collection=before.collection if collection is None else collection,
                chunk=chunk or before.chunk,
            )
            if known.get(name) != source:
                put_source(self._database, source, os.sep)
            sources.append(source)
        return updater.update(sources)

    def update(
        self,
        paths: str | Path | Sequence[str | Path] | None = None,
        *,
        on_progress: OnProgress = lambda stage, done, total: None,
    ) -> UpdateReport:
        """Bring the sources up to date, or those at, above or below `paths`, as `add` does.

        A file whose size and modification time are what they were is not read. A source that does
        not exist any more fails, and keeps what is stored of it.

        Raises UsageError where a path is in no source.
        """
        return self._updater(on_progress).update(self._sources(paths))

    def watch(
        self,
        paths: str | Path | Sequence[str | Path] | None = None,
        *,
        stop: threading.Event | None = None,
        on_progress: OnProgress = lambda stage, done, total: None,
    ) -> Iterator[UpdateReport]:
        """Update now and whenever something has changed, until `stop` is set; the reports.

        Sources that are added later are not watched. Raises what `update` raises.
        """
        sources = [Path(source.path) for source in self._sources(paths)]
        sources = [source for source in sources if source.exists()]
        if not sources:
            raise UsageError(
                "there is nothing to watch. Index a folder with: harrier-edge add PATH"
            )
        for _ in moments(sources, self._database.files, stop):
            yield self._updater(on_progress).update(self._sources(paths))

    def _sources(self, paths: str | Path | Sequence[str | Path] | None) -> list[Source]:
        sources = sources_of(self._database)
        if paths is None:
            return sources
        chosen: dict[str, Source] = {}
        for path in map(absolute, _paths(paths)):
            found = {
                source.path: source
                for source in sources
                if is_below(path, [Path(source.path)]) or is_below(Path(source.path), [path])
            }
            if not found:
                raise UsageError(f"{path}: is not indexed. Index it with: harrier-edge add PATH")
            chosen |= found
        return list(chosen.values())

    def _updater(self, on_progress: OnProgress) -> Updater:
        from harrier_edge.updating import Updater

        if self._guest is not None:
            require_same(self._database.path, self._database.model, self._guest)
        return Updater(self._database, lambda: self.embedder, on_progress)

    def search(
        self,
        query: str,
        top_k: int = 10,
        *,
        mode: Mode = "hybrid",
        min_score: float | None = None,
        filters: str | Sequence[str] = (),
        every_chunk: bool = False,
        candidates: int | None = None,
        exact: bool = False,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
    ) -> list[Hit]:
        """The `top_k` best passages for `query`, best first; equal scores in the order of ids.

        `mode` "vector" ranks by cosine (the score, 0 at the least), "text" by words (BM25), and
        "hybrid" adds the scores of both rankings, each by its spread. In the last two,
        `"a phrase"` must be there, `-word` must not, and `prefix*` stands for all words that begin
        so. A hit below `min_score` is left out.

        Only documents that meet all `filters` are ranked at all: `path=notes/*.md`,
        `type=text/html`, `collection=work`, `modified>=2025-01-31`, `author=Zoë`, `year<2000`
        (store/filters.py has all forms). Of each document the best passage is given, or with
        `every_chunk` all that rank.

        Vectors are first compared by their signs; the best `candidates`, by default as many as
        their dimension needs, and at least twice `top_k`, by their whole. More find more of the
        true best, `exact` all. The query gets the
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
        model: str | Path | TextEncoder,
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
        from harrier_edge.reembedding import reembed

        if store is not None:
            _check_store(store)
        embedder = loaded(find_model(model, precision))
        with cls.open(path, create=False) as index:
            database = index._database
            wanted = replace(identity(embedder), store=store or database.model.store)
            if replace(wanted, package="") == replace(database.model, package=""):
                return 0
            return reembed(database, embedder, wanted, on_progress)

    def compact(self) -> tuple[int, int]:
        """Give back the space that deletions have left: the file's bytes before and after."""
        return compact(self._database)

    def backup(self, target: str | Path) -> None:
        """Copy the index to a new file while it is in use. Raises StoreError where that fails."""
        backup(self._database, absolute(Path(target)))

    def dump(
        self, file: str | Path, *, on_progress: OnProgress = lambda stage, done, total: None
    ) -> int:
        """Write all that the index holds to a new `file`, as Parquet or JSON Lines by its ending.

        That is every chunk with its vector, document, lines and metadata (dumps/records.py has all
        fields), while the index may be used. Returns how many chunks.

        Raises UsageError where the ending is neither ".parquet" nor ".jsonl" or pyarrow is missing,
        StoreError where the file exists or cannot be written.
        """
        from harrier_edge.dumps.transfer import dump

        return dump(self._database, absolute(Path(file)), on_progress)

    @classmethod
    def load(
        cls,
        path: str | Path,
        file: str | Path,
        *,
        model: str | Path | None = None,
        precision: str | None = None,
        on_progress: OnProgress = lambda stage, done, total: None,
    ) -> int:
        """Make a new index at `path` of what `dump` wrote to `file`; nothing is embedded.

        `model` and `precision` are as in `open`; without them the package that made it is looked
        for. Returns how many chunks it has.

        Raises ModelMismatchError where the model is another one, ModelNotFoundError where none is
        found, StoreError where `path` exists or `file` is damaged, which leaves nothing behind.
        """
        from harrier_edge.dumps.transfer import load

        package = None if model is None else find_package(model, precision)
        return load(absolute(Path(file)), absolute(Path(path)), package, on_progress)

    def check(self) -> list[str]:
        """What is wrong with the index file, in words; nothing where it is sound. Reads it all."""
        return check(self._database)

    def status(self) -> IndexStatus:
        """What the index holds. The model is not loaded."""
        from harrier_edge.packing import packed_bytes

        counts = self._database.counts()
        return IndexStatus(
            path=self._database.path,
            bytes=self._database.path.stat().st_size,
            schema_version=self._database.schema_version,
            documents=counts.documents,
            incomplete=counts.incomplete,
            chunks=counts.chunks,
            model=self._database.model,
            packed_bytes=packed_bytes(package_folder(self._database.model.package)),
            sources=tuple(sources_of(self._database)),
        )


def known_indexes() -> list[Path]:
    """The index of this place and all that were opened on this machine, as far as they exist."""
    noted = [Path(path) for path in recall_all(_INDEXES, str)]
    paths = dict.fromkeys([absolute(index_file()), *sorted(noted)])
    return [path for path in paths if path.exists()]


def _check_store(store: str) -> None:
    if store not in STORES:
        raise UsageError(f"store is {store!r}; wanted one of: {', '.join(STORES)}.")


def _paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
