"""The connection to an index file: opening, migrating, transactions, and errors in words."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import sqlite_vec

from harrier_edge.errors import ForeignDatabaseError, ModelMismatchError, StoreError
from harrier_edge.store.schema import APPLICATION_ID, MIGRATIONS
from harrier_edge.store.words import TOKENIZER, fold

BUSY_MS = 10_000  # how long one writer waits for another
PAGE_BYTES = 8192  # three float32 vectors of 640 dimensions a page
BESIDE = ("-writer", "-wal", "-shm", "-journal")  # ours, and SQLite's
NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "sshfs", "davfs", "glusterfs", "ceph", "vboxsf")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredModel:
    """The model whose vectors an index holds, and the folder of its package.

    `fidelity` is the package's measured mean cosine to the original model.
    """

    name: str
    fingerprint: str
    precision: str
    dimension: int
    package: str
    store: str = "float32"  # how its vectors are stored
    fidelity: float | None = field(default=None, compare=False)


class Connection:
    """An open index file. Safe to share between threads, which take turns."""

    def __init__(self, path: Path, create: StoredModel | None = None) -> None:
        """Open the index at `path`, or make one for the model `create` where there is none.

        What cannot be written is opened for reading. On a network file system, whose locks and
        shared memory are not to be relied on, there is a rollback journal in place of the WAL:
        then readers wait for a writer, and it for them.

        Raises ForeignDatabaseError where the file is something else or damaged, and StoreError
        where it cannot be opened, is of a newer release, or is not there and `create` is None.
        """
        self.path = path
        self._writer, self._log, *others = (path.with_name(path.name + end) for end in BESIDE)
        self.files = frozenset([path, self._writer, self._log, *others])
        self._lock = threading.RLock()
        if not path.exists():
            if create is None:
                raise StoreError(f"{path}: no such index. Make one with: harrier-edge add PATH")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{path.parent}: cannot be made: {error.strerror}") from error
        self.read_only = path.exists() and not _writable(path)
        with self._errors_named():
            self._connection = self._connect()
        try:
            with self._errors_named():
                self._prepare(create)
                self.model = self._stored_model()
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> apsw.Connection:
        if not self.read_only:
            return apsw.Connection(str(self.path))
        pending = self._log.exists() and self._log.stat().st_size > 0
        if not pending:
            logger.warning("%s: cannot be written, so it is only read", self.path)
        # "immutable": SQLite can make no lock or shared memory here. Nobody else writes either,
        # unless a log says so.
        options = "mode=ro" if pending else "mode=ro&immutable=1"
        return apsw.Connection(
            f"{self.path.absolute().as_uri()}?{options}",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )

    def _prepare(self, create: StoredModel | None) -> None:
        connection = self._connection
        connection.set_busy_timeout(BUSY_MS)
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.enable_load_extension(False)
        connection.create_scalar_function("fold", _fold, 1, deterministic=True)
        version = self._check_identity()
        if version == 0 and create is None:
            raise StoreError(f"{self.path}: is empty. Fill it with: harrier-edge add PATH")
        connection.execute("PRAGMA foreign_keys = ON")
        if self.read_only:
            if version < len(MIGRATIONS):
                raise StoreError(
                    f"{self.path}: has schema {version}, which this harrier-edge must bring up to "
                    f"{len(MIGRATIONS)}, and cannot be written. Copy it to where it can."
                )
            return
        if version == 0:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        if kind := network_file_system(self.path):
            logger.warning("%s: is on a network file system (%s), slower there", self.path, kind)
            connection.execute("PRAGMA journal_mode = DELETE")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        if version < len(MIGRATIONS):
            self._migrate(create)

    def _check_identity(self) -> int:
        """The schema version, 0 for an empty file. Raises where it is not an index of ours."""
        version: int = self.value("PRAGMA user_version")
        if self.value("PRAGMA application_id") != APPLICATION_ID:
            if self.value("SELECT count(*) FROM sqlite_schema") or version:
                raise ForeignDatabaseError(
                    f"{self.path}: is another program's database, and stays as it is. "
                    "Choose another file with --db."
                )
            return 0
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path}: has schema {version}, this harrier-edge knows up to "
                f"{len(MIGRATIONS)}. Install a newer release."
            )
        return version

    def _migrate(self, create: StoredModel | None) -> None:
        """Apply what is missing in one transaction. Another process may have been faster."""
        with self._transaction():
            version = self._check_identity()
            model = self._stored_model() if version else create
            assert model is not None
            for migration in MIGRATIONS[version:]:
                sql = migration.replace("{dimension}", str(model.dimension))
                try:
                    self.execute(sql.replace("{tokenizer}", TOKENIZER))
                except apsw.SQLError as error:  # FTS5 says no more where it cannot write
                    raise apsw.IOError(str(error)) from error
            if version == 0:
                self.store_model(model)
            self.after_migration(model)
            self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def after_migration(self, model: StoredModel) -> None:
        """What a migration needs besides SQL, in its transaction."""

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._errors_named():
            self._connection.close()

    @property
    def schema_version(self) -> int:
        """The number of migrations that the file has had."""
        with self.reading():
            version: int = self.value("PRAGMA user_version")
            return version

    def _stored_model(self) -> StoredModel:
        values: dict[str, Any] = dict(self.execute("SELECT key, value FROM model").fetchall())
        values["dimension"] = int(values["dimension"])
        if "fidelity" in values:
            values["fidelity"] = float(values["fidelity"])
        return StoredModel(**values)

    def check_model(self) -> None:
        """Raise ModelMismatchError where another process has exchanged the model meanwhile."""
        stored = self._stored_model()
        if replace(stored, package="") != replace(self.model, package=""):
            raise ModelMismatchError(
                f"{self.path}: now has vectors of {stored.name} in {stored.precision}, no longer "
                f"of {self.model.name} in {self.model.precision}. Open it again."
            )

    def store_model(self, model: StoredModel) -> None:
        self.execute("DELETE FROM model")
        for key, value in asdict(model).items():
            if value is not None:
                self.execute("INSERT INTO model (key, value) VALUES (?, ?)", (key, str(value)))

    def execute(self, sql: str, values: Sequence[object] = ()) -> Any:
        """A cursor, whose rows are of the types that the schema gives."""
        return self._connection.execute(sql, values)

    def value(self, sql: str) -> Any:
        return self.execute(sql).fetchone()[0]

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._lock, self._errors_named():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reading in which all is as it was at the first look, whatever others write."""
        with self.reading():
            self.execute("BEGIN")
            try:
                yield
            finally:
                self.execute("ROLLBACK")

    def settle(self) -> None:
        """Bring all that was committed from the log into the file itself, which can be moved then.

        Closing does so too, but says nothing where it fails.
        """
        with self.reading():
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def copy_to(self, target: Path, pages: int) -> None:
        """Copy the file as it is now with SQLite's online backup, some pages at a time.

        Raises StoreError where `target` cannot be written.
        """
        # SQLite would begin anew at every commit of others, but for the snapshot.
        with self.snapshot():
            self.value("SELECT count(*) FROM sqlite_schema")
            try:
                with (
                    closing(apsw.Connection(str(target))) as copy,
                    copy.backup("main", self._connection, "main") as work,
                ):
                    while not work.done:
                        work.step(pages)
            except (apsw.CantOpenError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError) as error:
                raise StoreError(
                    f"{target}: cannot be written ({error}). Choose another place."
                ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._lock, self._errors_named(), self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end, roll back at any exception. Takes the write lock at once."""
        self.execute("BEGIN IMMEDIATE")
        self._sign(f"{os.getpid()} {Path(sys.argv[0]).name}")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if not self._connection.get_autocommit():  # SQLite itself rolls back on a full disk
                self.execute("ROLLBACK")
            raise

    def _sign(self, holder: str) -> None:
        """Leave word of who writes, for those who wait too long. Never a reason to fail."""
        with suppress(OSError):
            self._writer.write_text(holder, "utf-8")

    def _holder(self) -> str:
        """Who wrote last, in words."""
        try:
            process, _, program = self._writer.read_text("utf-8").partition(" ")
        except (OSError, UnicodeDecodeError):
            return "another process"
        return f"process {process} ({program})"

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """SQLite's errors as this project's, with the file and the next step."""
        try:
            yield
        except apsw.NotADBError as error:
            raise ForeignDatabaseError(
                f"{self.path}: is not a database, and stays as it is. Choose another file with "
                "--db."
            ) from error
        except apsw.CorruptError as error:
            raise ForeignDatabaseError(
                f"{self.path}: is damaged ({error}). Restore it from a backup, or move it away "
                "and add the documents again."
            ) from error
        except apsw.BusyError as error:
            raise StoreError(
                f"{self.path}: {self._holder()} has been writing for more than "
                f"{BUSY_MS // 1000} seconds. Wait for it to end, then run this again; what was "
                "committed is kept."
            ) from error
        except (apsw.FullError, apsw.IOError) as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error}). Free space on the disk, then run this "
                "again; what was committed is kept."
            ) from error
        except apsw.ExtensionLoadingError as error:
            raise StoreError(
                f"{self.path}: SQLite cannot load sqlite-vec ({error}). Install it again: "
                "pip install --force-reinstall sqlite-vec"
            ) from error
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
            raise StoreError(
                f"{self.path}: cannot be opened ({error}). Check its permissions and its folder."
            ) from error


def sqlite_versions() -> dict[str, str]:
    """The versions of SQLite, apsw and sqlite-vec, each tried out.

    Raises StoreError where SQLite cannot do what an index needs, or load the extension.
    """
    with closing(apsw.Connection(":memory:")) as connection:
        try:
            connection.enable_load_extension(True)
            connection.load_extension(sqlite_vec.loadable_path())
            extension = str(connection.execute("SELECT vec_version()").fetchall()[0][0])
            connection.execute(f'CREATE VIRTUAL TABLE words USING fts5 (a, tokenize="{TOKENIZER}")')
        except apsw.Error as error:
            raise StoreError(f"SQLite {apsw.sqlite_lib_version()}: {error}.") from error
    return {
        "SQLite": apsw.sqlite_lib_version(),
        "apsw": apsw.apsw_version(),
        "sqlite-vec": extension,
    }


def is_blank(path: Path) -> bool:
    """Whether an index is still to be made at `path`: no file, or one that has not got a table."""
    if not path.exists():
        return True
    try:
        if path.stat().st_size > PAGE_BYTES:
            return False
        with closing(apsw.Connection(str(path))) as connection:
            return bool(connection.execute("PRAGMA user_version").fetchall() == [(0,)])
    except (OSError, apsw.Error):
        return False  # whoever opens it is told why


def network_file_system(path: Path) -> str:
    """The kind of network file system that a file is on; "" for none, or where it is not told."""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    fields = [line.split(" ") for line in mounts]
    above = {str(folder) for folder in path.absolute().parents}
    found = [(len(where), kind) for _, where, kind, *_ in fields if where in above]
    kind = max(found, default=(0, ""))[1].removeprefix("fuse.")
    return kind if kind.startswith(NETWORK) else ""


def _fold(*values: object) -> str:
    """`fold` as a function of SQL, for migrations."""
    return fold(str(values[0]))


def _writable(path: Path) -> bool:
    """Whether an index can be written: its file, and the log that SQLite puts beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
