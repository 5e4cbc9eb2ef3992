-- Owned by `audit`. Who changed what, in the order in which it was written down; `at_ms` is Unix
-- milliseconds of when it was done, `id` the 16 bytes of a UUID, `metadata` a JSON object of texts.
CREATE TABLE audit_record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    at_ms INTEGER NOT NULL,
    channel TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    action TEXT NOT NULL,
    actor TEXT,
    target TEXT,
    success INTEGER NOT NULL,
    detail TEXT,
    metadata TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit_record (at_ms);
