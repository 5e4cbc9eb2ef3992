-- Owned by `registry`. Times are Unix milliseconds.

-- Nodes that registered themselves: what is known of each, as JSON; when it was last heard; when its
-- silence means something.
CREATE TABLE registry_node (
    id TEXT PRIMARY KEY,
    known TEXT NOT NULL,
    heard_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX registry_due ON registry_node (due_ms);

-- What was last told of each managed inbound, by its kernel id, as JSON.
CREATE TABLE registry_inbound (
    id TEXT PRIMARY KEY,
    told TEXT NOT NULL
) STRICT, WITHOUT ROWID;
