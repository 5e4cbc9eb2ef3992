//! The ledger's tables. A migration that was released is never changed: a new one follows it.
//!
//! Bytes of a user move in one direction only: `baseline` → `open` → `report` → `settled`. Each row
//! that decides what somebody is billed carries a checksum of its content (`crc`): a bit that flipped
//! on the disk is found before it is billed. A row that would be missed without a word, for its key
//! is not what it was, is missed in a count (`boot.baselines`) or in the sums (`total`,
//! `source_sum`).
//!
//! In `open`, `report`, `settled` and `total` the column `node` is the panel's node; for sinks of panels
//! that push (`receivers::is_kernel`) it is the number of a row of `inbound`, whose node may change.

/// All migrations, in order.
pub(in crate::traffic) const MIGRATIONS: &[&str] = &[FIRST, SECOND];

const FIRST: &str = "
-- Since when an Xray is known: counters of a boot that is older are adopted, not billed.
CREATE TABLE xray (
    name TEXT PRIMARY KEY,
    kernel TEXT NOT NULL,
    born_ms INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A run of an Xray; `seen` counts up over all of them, and `id` is what it was at first. Times in
-- milliseconds. `baselines` tells how many rows of that table are of this one.
CREATE TABLE boot (
    id INTEGER PRIMARY KEY,
    xray TEXT NOT NULL,
    kernel TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    started_awake_ms INTEGER,
    uptime_s INTEGER NOT NULL,
    total_alloc INTEGER NOT NULL,
    mallocs INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    adopted_up INTEGER NOT NULL,
    adopted_down INTEGER NOT NULL,
    baselines INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT;

-- Counters as last counted, by their e-mail in exact case.
CREATE TABLE baseline (
    boot INTEGER NOT NULL REFERENCES boot (id) ON DELETE CASCADE,
    email TEXT NOT NULL,
    node INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    PRIMARY KEY (boot, email)
) STRICT, WITHOUT ROWID;

-- A sink, and whether it has shown that it drops repeats.
CREATE TABLE sink (
    name TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    dedupes INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Bytes that were counted and are in no report yet.
CREATE TABLE open (
    sink TEXT NOT NULL,
    user BLOB NOT NULL,
    node INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    since INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    PRIMARY KEY (sink, user, node)
) STRICT, WITHOUT ROWID;

-- Reports that are not settled. `since` and `until` bound the time in which the bytes were counted,
-- `changed` is when the state last did, `doubted` when an attempt first came to nothing that is known
-- (0: never): Unix milliseconds.
CREATE TABLE report (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    sink TEXT NOT NULL,
    node INTEGER NOT NULL,
    user BLOB NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'rejected', 'unknown')),
    attempts INTEGER NOT NULL,
    doubted INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    words TEXT NOT NULL,
    crc INTEGER NOT NULL
) STRICT;
CREATE INDEX report_by_state ON report (sink, state, seq);
CREATE INDEX report_by_user ON report (sink, user, state);

-- What a sink has taken, by day (days since 1970 in UTC).
CREATE TABLE settled (
    day INTEGER NOT NULL,
    sink TEXT NOT NULL,
    node INTEGER NOT NULL,
    user BLOB NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    reports INTEGER NOT NULL,
    PRIMARY KEY (day, sink, node, user)
) STRICT, WITHOUT ROWID;

-- Sums since the ledger began: what was counted for a sink, and what it has taken.
CREATE TABLE total (
    sink TEXT NOT NULL,
    node INTEGER NOT NULL,
    counted_up INTEGER NOT NULL DEFAULT 0,
    counted_down INTEGER NOT NULL DEFAULT 0,
    settled_up INTEGER NOT NULL DEFAULT 0,
    settled_down INTEGER NOT NULL DEFAULT 0,
    settled_reports INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sink, node)
) STRICT, WITHOUT ROWID;
";

const SECOND: &str = "
-- Managed inbounds, and what was counted in each since it has a number, for whomever.
CREATE TABLE inbound (
    id INTEGER PRIMARY KEY,
    xray TEXT NOT NULL,
    tag TEXT NOT NULL,
    node INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT;

-- What users have moved since the ledger began, by the panels that wanted it: `polled` or `pushed`.
CREATE TABLE user_sum (
    user BLOB NOT NULL,
    source TEXT NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    PRIMARY KEY (user, source)
) STRICT, WITHOUT ROWID;

-- The same of all users together: what `user_sum` is held against.
CREATE TABLE source_sum (
    source TEXT PRIMARY KEY,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What sinks of panels that push have taken of users since the ledger began; under an empty name the
-- most that one had taken that is gone.
CREATE TABLE user_settled (
    user BLOB NOT NULL,
    sink TEXT NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    PRIMARY KEY (user, sink)
) STRICT, WITHOUT ROWID;

-- What is known of the time before. Days that are long past are not in it. Unlike `sum`, `total` fails
-- at no amount that a flipped bit made; what it makes of that is found when the sums are looked at.
INSERT INTO user_sum (user, source, up, down)
    SELECT user, 'polled', CAST(total(up) AS INTEGER), CAST(total(down) AS INTEGER) FROM (
        SELECT user, up, down FROM open WHERE sink = 'report-traffic'
        UNION ALL SELECT user, up, down FROM report WHERE sink = 'report-traffic'
        UNION ALL SELECT user, up, down FROM settled WHERE sink = 'report-traffic')
    GROUP BY user;
INSERT INTO source_sum (source, up, down)
    SELECT 'polled', CAST(total(up) AS INTEGER), CAST(total(down) AS INTEGER) FROM user_sum;
";
