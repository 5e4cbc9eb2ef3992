-- Owned by `events`. Times are Unix milliseconds, ids the 16 bytes of a UUID.

-- The latest events, in the order in which they were committed; from here a stream is taken up again
-- after a restart.
CREATE TABLE event_journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    name TEXT NOT NULL,
    occurred_ms INTEGER NOT NULL,
    payload TEXT NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;

-- Who is sent events. `events` are names with spaces between them, nothing: all. `disabled` says why
-- nothing more is sent. What follows counts the rows of its queue and what became of those that were
-- in it: `queued` wait, `kept` were given up and are still there, `forgotten` no longer are.
CREATE TABLE outbox_target (
    id BLOB PRIMARY KEY,
    owner TEXT NOT NULL,
    form TEXT NOT NULL,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    by_api INTEGER NOT NULL,
    secret TEXT,
    bearer TEXT,
    created_ms INTEGER NOT NULL,
    disabled TEXT,
    trouble TEXT,
    delivered_ms INTEGER,
    queued INTEGER NOT NULL DEFAULT 0,
    queued_bytes INTEGER NOT NULL DEFAULT 0,
    kept INTEGER NOT NULL DEFAULT 0,
    kept_bytes INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, form, url, events)
) STRICT, WITHOUT ROWID;

-- What is to be sent, in the order of `seq` for each target. A row with `given_up_ms` is not sent
-- by itself.
CREATE TABLE outbox_queue (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    target BLOB NOT NULL REFERENCES outbox_target (id) ON DELETE CASCADE,
    event BLOB NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    first_try_ms INTEGER,
    due_ms INTEGER,
    why TEXT,
    given_up_ms INTEGER
) STRICT;
CREATE INDEX outbox_waiting ON outbox_queue (target, seq) WHERE given_up_ms IS NULL;
CREATE INDEX outbox_given_up ON outbox_queue (target, seq) WHERE given_up_ms IS NOT NULL;
