-- Owned by `http`. How often a minute the API may be asked: `key` is a route's template where `scope`
-- is `endpoint`, and who asks where it is `identity`.
CREATE TABLE rate_limit (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    per_minute INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
