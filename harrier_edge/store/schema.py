"""The tables of an index file, as numbered migrations.

A migration is never changed once released: a new one is added at the end. `{dimension}` stands
for the model's embedding dimension. The file's `user_version` is the number of those applied.
"""

from __future__ import annotations

APPLICATION_ID = 0x68617272  # "harr": tells an index from any other SQLite file

MIGRATIONS = (
    """
    -- What made the vectors: name, fingerprint, precision, dimension, package (its folder).
    CREATE TABLE model (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE documents (
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL UNIQUE,   -- absolute
        title TEXT NOT NULL,
        sha256 TEXT NOT NULL,        -- of the file's bytes
        complete INTEGER NOT NULL,   -- 0 while only its first chunks are stored
        metadata TEXT NOT NULL       -- a JSON object
    ) STRICT;

    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY,
        document INTEGER NOT NULL REFERENCES documents (id),
        number INTEGER NOT NULL,     -- within the document, from 0
        line INTEGER NOT NULL,       -- first and last line, from 1
        end_line INTEGER NOT NULL,
        text TEXT NOT NULL,
        UNIQUE (document, number)
    ) STRICT;

    -- The words of chunks, by the chunk's id; the text itself is not stored twice.
    CREATE VIRTUAL TABLE words USING fts5 (
        text, content='chunks', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
    );

    -- float32, little-endian, of unit length.
    CREATE VIRTUAL TABLE vectors USING vec0 (
        chunk INTEGER PRIMARY KEY, vector FLOAT[{dimension}] distance_metric=cosine
    );
    """,
)
