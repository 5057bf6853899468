"""The models of a server: loaded when they are asked for, unloaded when nobody does."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harrier_edge.embedder import Embedder
from harrier_edge.errors import BusyError, ModelNotFoundError, UsageError
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table
from harrier_edge.wire import OWNER, ServedModel

RETRY_SECONDS = 5.0  # to wait where all the memory is taken by models in use

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Place:
    """A model, loaded or not."""

    folder: Path
    told: ServedModel
    bytes: int  # of the package's files
    embedder: Embedder | None = None
    users: int = 0
    used: float = 0.0  # when it was used last


class Models:
    """Served models by name and alias. Safe to share between threads."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        aliases: Mapping[str, str] | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        memory_bytes: int | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Serve the packages in `folders`, the first to who names none. None is loaded yet.

        A model goes by its name, by NAME-PRECISION, by its repository on the hub, and by
        `aliases` (alias -> one of these); of several with one name, the first has it.
        `memory_bytes` is what the packages of all loaded models may have together, in files;
        `idle_seconds` is after how long `unload_idle` unloads one.

        Raises SpecError where a manifest is malformed, UsageError where an alias is to no model
        or a package alone has more than `memory_bytes`.
        """
        self._threads, self._providers = threads, providers
        self._memory_bytes, self._idle_seconds = memory_bytes, idle_seconds
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # one at a time; what is loaded does not wait for it
        self._names: dict[str, _Place] = {}
        self._places: list[_Place] = []
        for folder in folders:
            manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
            precise = f"{manifest.name}-{manifest.precision.name}"
            names = [name for name in (manifest.name, precise) if name not in self._names]
            if not names:
                raise UsageError(f"{folder}: {precise} is named twice. Name each model once.")
            size = sum(record.size for record in manifest.files.values())
            if memory_bytes is not None and size > memory_bytes:
                raise UsageError(
                    f"{folder}: has {size} bytes, and models may have {memory_bytes} together. "
                    "Raise --memory, or take a smaller precision."
                )
            place = _Place(folder, _told(names[0], manifest), size)
            self._places.append(place)
            for name in (*names, manifest.repository):
                if name:
                    self._names.setdefault(name, place)
        for alias, name in (aliases or {}).items():
            if name not in self._names:
                raise UsageError(
                    f"alias {alias!r} is for {name!r}, which is not served here; there is: "
                    f"{', '.join(self._names)}."
                )
            self._names[alias] = self._names[name]

    def told(self, name: str = "") -> ServedModel:
        """What is known of the model called `name`, or "" for the first.

        Raises ModelNotFoundError.
        """
        return self._place(name).told

    def all_told(self) -> list[ServedModel]:
        """What is known of all models, the first one first."""
        return [place.told for place in self._places]

    @property
    def loaded(self) -> list[str]:
        """The names of those that are loaded."""
        return [place.told.id for place in self._places if place.embedder]

    @contextmanager
    def using(self, name: str = "") -> Iterator[Embedder]:
        """The model called `name`, loaded if it is not; in the block it is not unloaded.

        Raises ModelNotFoundError, what `Embedder` raises, and BusyError where models that are in
        use leave no memory for it.
        """
        place = self._place(name)
        with self._lock:
            place.users += 1
        try:
            yield place.embedder or self._load(place)
        finally:
            with self._lock:
                place.users -= 1
                place.used = time.monotonic()

    def is_loaded(self, name: str = "") -> bool:
        """Whether `using` does not have to load it. Raises ModelNotFoundError."""
        return self._place(name).embedder is not None

    def unload_idle(self) -> None:
        """Unload what nobody has used for `idle_seconds`."""
        if self._idle_seconds is None:
            return
        before = time.monotonic() - self._idle_seconds
        with self._lock:
            for place in self._places:
                if place.embedder and not place.users and place.used < before:
                    _unload(place)

    def _place(self, name: str) -> _Place:
        if not name:
            return self._places[0]
        if name not in self._names:
            raise ModelNotFoundError(
                f"no model {name[:100]!r} is served here; there is: {', '.join(self._names)}."
            )
        return self._names[name]

    def _load(self, place: _Place) -> Embedder:
        with self._loading:
            if place.embedder is None:
                self._make_room(place)
                begun = time.perf_counter()
                place.embedder = Embedder(
                    place.folder, threads=self._threads, providers=self._providers
                )
                logger.info("loaded %s in %.1f s", place.told.id, time.perf_counter() - begun)
            return place.embedder

    def _make_room(self, wanted: _Place) -> None:
        """Unload what has not been used for longest, until `wanted` fits."""
        if self._memory_bytes is None:
            return
        with self._lock:
            loaded = [place for place in self._places if place.embedder or place is wanted]
            idle = sorted((p for p in loaded if not p.users), key=lambda place: place.used)
            over = sum(place.bytes for place in loaded) - self._memory_bytes
            if over > sum(place.bytes for place in idle):
                raise BusyError(
                    f"models that are in use leave no memory for {wanted.told.id}.",
                    retry_after=RETRY_SECONDS,
                )
            for place in idle:
                if over <= 0:
                    return
                _unload(place)
                over -= place.bytes


def _unload(place: _Place) -> None:
    place.embedder = None
    gc.collect()  # what of it is in cycles; an idle process would long not come to that
    logger.info("unloaded %s", place.told.id)


def _told(name: str, manifest: PackageManifest) -> ServedModel:
    return ServedModel(
        id=name,
        owned_by=OWNER,
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        precision=manifest.precision.name,
        dimension=manifest.dimension,
        max_tokens=manifest.tokens.max_tokens,
        prompts=manifest.prompts,
        query_preset=manifest.query_prompt,
        document_preset=manifest.document_prompt,
        fidelity=manifest.parity.mean_cosine if manifest.parity else None,
    )
