-- Times are microseconds since the Unix epoch; ids are hyphenated UUIDs of version 7, so that order by id is order by age.

CREATE TABLE contexts (
    id              TEXT PRIMARY KEY NOT NULL,
    owner           TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    spec            TEXT NOT NULL CHECK (json_valid(spec)),
    project         INTEGER,
    idempotency_key TEXT,
    request_digest  TEXT,
    revision        INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE INDEX contexts_by_owner ON contexts (owner, id);
CREATE UNIQUE INDEX contexts_by_idempotency_key ON contexts (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE executions (
    id              TEXT PRIMARY KEY NOT NULL,
    context_id      TEXT NOT NULL REFERENCES contexts (id),
    owner           TEXT NOT NULL,
    requested_by    TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    idempotency_key TEXT,
    request_digest  TEXT,
    -- What is wanted: written by the API alone.
    wanted_engine   TEXT,
    namespace       TEXT NOT NULL,
    environment     TEXT NOT NULL CHECK (json_valid(environment)),
    wanted          TEXT NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'stopped', 'removed')),
    -- What was observed: written by the reconciler alone.
    phase           TEXT NOT NULL DEFAULT 'pending' CHECK (phase IN
        ('pending', 'scheduled', 'starting', 'running', 'stopping', 'exited', 'failed', 'lost', 'removed')),
    reason          TEXT,
    message         TEXT,
    engine          TEXT,
    engine_id       TEXT,
    started_at      INTEGER,
    finished_at     INTEGER,
    exit_code       INTEGER,
    ports           TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(ports)),
    attempts        INTEGER NOT NULL DEFAULT 0,
    -- When a reconciler must look next: set by a wish, by a retry, and cleared when only an event can change anything.
    due_at          INTEGER,
    -- The reconciler that looks after it.
    holder          TEXT,
    revision        INTEGER NOT NULL DEFAULT 1,
    -- What clients of the 2018 service are told.
    state           TEXT NOT NULL GENERATED ALWAYS AS (CASE
        WHEN wanted = 'removed' OR phase IN ('failed', 'lost', 'removed') THEN 'unavailable'
        WHEN phase IN ('pending', 'scheduled', 'starting') THEN 'pending'
        WHEN phase IN ('running', 'stopping') THEN 'running'
        ELSE 'exited' END) STORED
) STRICT;

CREATE INDEX executions_by_context ON executions (context_id, id);
CREATE INDEX executions_by_owner ON executions (owner, id);
CREATE INDEX executions_by_owner_state ON executions (owner, state, id);
CREATE INDEX executions_by_state ON executions (state, id);
CREATE INDEX executions_due ON executions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX executions_held ON executions (holder) WHERE holder IS NOT NULL;
CREATE UNIQUE INDEX executions_by_idempotency_key ON executions (requested_by, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- The labels of a context's specification, whole ("key=value") and by key alone: one row for each filter that finds it.
CREATE TABLE context_labels (
    owner      TEXT NOT NULL,
    label      TEXT NOT NULL,
    context_id TEXT NOT NULL,
    PRIMARY KEY (owner, label, context_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX context_labels_by_label ON context_labels (label, context_id);
CREATE INDEX context_labels_by_context ON context_labels (context_id);

CREATE TABLE execution_labels (
    owner        TEXT NOT NULL,
    label        TEXT NOT NULL,
    execution_id TEXT NOT NULL,
    PRIMARY KEY (owner, label, execution_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX execution_labels_by_label ON execution_labels (label, execution_id);

CREATE TRIGGER contexts_label AFTER INSERT ON contexts WHEN json_type(NEW.spec, '$.labels') = 'array' BEGIN
    INSERT OR IGNORE INTO context_labels (owner, label, context_id)
        SELECT NEW.owner, value, NEW.id FROM json_each(NEW.spec, '$.labels');
    INSERT OR IGNORE INTO context_labels (owner, label, context_id)
        SELECT NEW.owner, substr(value, 1, instr(value, '=') - 1), NEW.id
        FROM json_each(NEW.spec, '$.labels') WHERE instr(value, '=') > 0;
END;

CREATE TRIGGER executions_label AFTER INSERT ON executions BEGIN
    INSERT OR IGNORE INTO execution_labels (owner, label, execution_id)
        SELECT NEW.owner, label, NEW.id FROM context_labels WHERE context_id = NEW.context_id;
END;

-- Logs as they appeared. `start` is the offset of the chunk in all that the execution wrote: a gap between chunks is
-- what the cap cut out.
CREATE TABLE log_chunks (
    execution_id TEXT NOT NULL,
    sequence     INTEGER NOT NULL,
    start        INTEGER NOT NULL,
    length       INTEGER NOT NULL,
    last_at      INTEGER NOT NULL,
    frames       BLOB NOT NULL,
    PRIMARY KEY (execution_id, sequence)
) STRICT;

CREATE TABLE engines (
    name        TEXT PRIMARY KEY NOT NULL,
    kind        TEXT NOT NULL,
    up          INTEGER NOT NULL,
    since       INTEGER NOT NULL,
    reason      TEXT,
    version     TEXT,
    served_at   INTEGER NOT NULL
) STRICT;

-- The reconcilers that are alive. One whose lease has ended has lost all that it held.
CREATE TABLE reconcilers (
    id          TEXT PRIMARY KEY NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Facts about the deployment itself: its id, and whether changes are audited.
CREATE TABLE deployment (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    at       INTEGER NOT NULL,
    thing    TEXT NOT NULL,
    id       TEXT NOT NULL,
    revision INTEGER NOT NULL,
    wanted   TEXT,
    phase    TEXT
) STRICT;
CREATE INDEX audit_by_thing ON audit (id, revision);

CREATE TRIGGER contexts_audit AFTER INSERT ON contexts
    WHEN EXISTS (SELECT 1 FROM deployment WHERE name = 'audit' AND value = 'on') BEGIN
    INSERT INTO audit (at, thing, id, revision)
        VALUES (CAST(unixepoch('subsec') * 1000000 AS INTEGER), 'context', NEW.id, NEW.revision);
END;
CREATE TRIGGER executions_audit_new AFTER INSERT ON executions
    WHEN EXISTS (SELECT 1 FROM deployment WHERE name = 'audit' AND value = 'on') BEGIN
    INSERT INTO audit (at, thing, id, revision, wanted, phase)
        VALUES (CAST(unixepoch('subsec') * 1000000 AS INTEGER), 'execution', NEW.id, NEW.revision, NEW.wanted, NEW.phase);
END;
CREATE TRIGGER executions_audit_change AFTER UPDATE OF wanted, phase ON executions
    WHEN (OLD.wanted <> NEW.wanted OR OLD.phase <> NEW.phase)
        AND EXISTS (SELECT 1 FROM deployment WHERE name = 'audit' AND value = 'on') BEGIN
    INSERT INTO audit (at, thing, id, revision, wanted, phase)
        VALUES (CAST(unixepoch('subsec') * 1000000 AS INTEGER), 'execution', NEW.id, NEW.revision, NEW.wanted, NEW.phase);
END;
