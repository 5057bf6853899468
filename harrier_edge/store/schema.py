"""The tables of an index file, as numbered migrations.

A migration is never changed once released: a new one is added at the end. `{dimension}` stands
for the model's embedding dimension, `{tokenizer}` for that of the words. The file's `user_version`
is the number of those applied.
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
    """
    -- What searches are filtered by, and where a chunk stands in its document.
    ALTER TABLE documents ADD COLUMN collection TEXT NOT NULL DEFAULT '';
    ALTER TABLE documents ADD COLUMN media_type TEXT NOT NULL DEFAULT 'text/plain';
    ALTER TABLE documents ADD COLUMN modified REAL NOT NULL DEFAULT 0;  -- seconds since 1970, UTC
    ALTER TABLE documents ADD COLUMN size INTEGER NOT NULL DEFAULT 0;   -- of the file, in bytes
    CREATE INDEX documents_by_collection ON documents (collection);
    CREATE INDEX documents_by_modified ON documents (modified);

    ALTER TABLE chunks ADD COLUMN heading TEXT NOT NULL DEFAULT '';     -- its path: "A > B"
    ALTER TABLE chunks ADD COLUMN start INTEGER NOT NULL DEFAULT 0;     -- characters, from 0, half
    ALTER TABLE chunks ADD COLUMN "end" INTEGER NOT NULL DEFAULT 0;     -- open: text[start:end]
    ALTER TABLE chunks ADD COLUMN digest BLOB NOT NULL DEFAULT x'';     -- of what was embedded
    CREATE INDEX chunks_by_digest ON chunks (digest) WHERE digest <> x'';
    """,
    """
    -- Words as `fold` (store/words.py) gives them; neither the text nor its folded form is kept.
    DROP TABLE words;
    CREATE VIRTUAL TABLE words USING fts5 (
        title, text, content='', contentless_delete=1, tokenize="{tokenizer}"
    );
    INSERT INTO words (rowid, title, text)
        SELECT chunks.id, fold(title || ' ' || heading), fold(text)
        FROM chunks JOIN documents ON documents.id = document;

    -- Of unit length, in the form that `store` in the table `model` names (vectors.py).
    CREATE TABLE plain (
        chunk INTEGER PRIMARY KEY REFERENCES chunks (id), vector BLOB NOT NULL
    ) STRICT;
    INSERT INTO plain SELECT chunk, vector FROM vectors;
    DROP TABLE vectors;
    ALTER TABLE plain RENAME TO vectors;
    INSERT INTO model VALUES ('store', 'float32') ON CONFLICT DO NOTHING;

    -- The vectors' signs after a rotation, for the scan. Chunk i is slot i % 4096 of segment
    -- i / 4096: its document there, 0 for none, and a bit for each dimension, all slots' first 64,
    -- then all slots' next. Numbers are little-endian, of 4 and of 8 bytes.
    CREATE TABLE sign_bits (
        segment INTEGER PRIMARY KEY,
        change INTEGER NOT NULL,     -- which of all changes of this table was its last
        documents BLOB NOT NULL,
        bits BLOB NOT NULL
    ) STRICT;
    CREATE INDEX sign_bits_by_change ON sign_bits (change);
    """,
    """
    -- What an update reads again, and how it was cut.
    ALTER TABLE documents ADD COLUMN stamp TEXT NOT NULL DEFAULT '';    -- of the file, see walk.py
    ALTER TABLE documents ADD COLUMN chunker TEXT NOT NULL DEFAULT '';  -- what cut it, by name

    -- The files and folders that are indexed, and what the last update left out of them.
    CREATE TABLE sources (
        path TEXT PRIMARY KEY,       -- absolute
        collection TEXT NOT NULL,
        chunk TEXT NOT NULL,         -- passages or document
        skipped TEXT NOT NULL,       -- a JSON object: reason -> how many
        failed TEXT NOT NULL         -- a JSON object: path -> reason
    ) STRICT, WITHOUT ROWID;
    """,
)
