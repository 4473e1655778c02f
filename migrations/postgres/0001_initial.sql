-- Ids are UUIDs of version 7, so that order by id is order by age.

CREATE TABLE contexts (
    id              uuid PRIMARY KEY,
    owner           text NOT NULL,
    created_at      timestamptz NOT NULL,
    spec            jsonb NOT NULL,
    project         bigint,
    idempotency_key text,
    request_digest  text,
    revision        bigint NOT NULL DEFAULT 1
);

CREATE INDEX contexts_by_owner ON contexts (owner, id);
CREATE UNIQUE INDEX contexts_by_idempotency_key ON contexts (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE executions (
    id              uuid PRIMARY KEY,
    context_id      uuid NOT NULL REFERENCES contexts (id),
    owner           text NOT NULL,
    requested_by    text NOT NULL,
    created_at      timestamptz NOT NULL,
    idempotency_key text,
    request_digest  text,
    -- What is wanted: written by the API alone.
    wanted_engine   text,
    namespace       text NOT NULL,
    environment     jsonb NOT NULL,
    wanted          text NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'stopped', 'removed')),
    -- What was observed: written by the reconciler alone.
    phase           text NOT NULL DEFAULT 'pending' CHECK (phase IN
        ('pending', 'scheduled', 'starting', 'running', 'stopping', 'exited', 'failed', 'lost', 'removed')),
    reason          text,
    message         text,
    engine          text,
    engine_id       text,
    started_at      timestamptz,
    finished_at     timestamptz,
    exit_code       bigint,
    ports           jsonb NOT NULL DEFAULT '[]',
    attempts        bigint NOT NULL DEFAULT 0,
    -- When a reconciler must look next: set by a wish, by a retry, and cleared when only an event can change anything.
    due_at          timestamptz,
    -- The reconciler that looks after it.
    holder          text,
    revision        bigint NOT NULL DEFAULT 1,
    -- What clients of the 2018 service are told.
    state           text NOT NULL GENERATED ALWAYS AS (CASE
        WHEN wanted = 'removed' OR phase IN ('failed', 'lost', 'removed') THEN 'unavailable'
        WHEN phase IN ('pending', 'scheduled', 'starting') THEN 'pending'
        WHEN phase IN ('running', 'stopping') THEN 'running'
        ELSE 'exited' END) STORED
);

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
    owner      text NOT NULL,
    label      text NOT NULL,
    context_id uuid NOT NULL,
    PRIMARY KEY (owner, label, context_id)
);
CREATE INDEX context_labels_by_label ON context_labels (label, context_id);
CREATE INDEX context_labels_by_context ON context_labels (context_id);

CREATE TABLE execution_labels (
    owner        text NOT NULL,
    label        text NOT NULL,
    execution_id uuid NOT NULL,
    PRIMARY KEY (owner, label, execution_id)
);
CREATE INDEX execution_labels_by_label ON execution_labels (label, execution_id);

CREATE FUNCTION contexts_label() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO context_labels (owner, label, context_id)
        SELECT NEW.owner, label, NEW.id FROM (
            SELECT value AS label FROM jsonb_array_elements_text(NEW.spec -> 'labels')
            UNION
            SELECT split_part(value, '=', 1) FROM jsonb_array_elements_text(NEW.spec -> 'labels')
                WHERE position('=' IN value) > 0
        ) AS labels;
    RETURN NULL;
END $$;
CREATE TRIGGER contexts_label AFTER INSERT ON contexts FOR EACH ROW
    WHEN (jsonb_typeof(NEW.spec -> 'labels') = 'array') EXECUTE FUNCTION contexts_label();

CREATE FUNCTION executions_label() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO execution_labels (owner, label, execution_id)
        SELECT NEW.owner, label, NEW.id FROM context_labels WHERE context_id = NEW.context_id;
    RETURN NULL;
END $$;
CREATE TRIGGER executions_label AFTER INSERT ON executions FOR EACH ROW EXECUTE FUNCTION executions_label();

-- A wish makes the reconciler's next pass sooner. Transactions that notify commit one after the other, each with its own
-- flush to disk; so of those at the same time one alone notifies, and whoever hears it looks twice.
CREATE FUNCTION executions_wished() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtext('renga_executions')) THEN
        PERFORM pg_notify('renga_executions', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER executions_wished_new AFTER INSERT ON executions FOR EACH ROW EXECUTE FUNCTION executions_wished();
CREATE TRIGGER executions_wished_change AFTER UPDATE OF wanted ON executions FOR EACH ROW
    WHEN (OLD.wanted IS DISTINCT FROM NEW.wanted) EXECUTE FUNCTION executions_wished();

-- Logs as they appeared. `start` is the offset of the chunk in all that the execution wrote: a gap between chunks is
-- what the cap cut out.
CREATE TABLE log_chunks (
    execution_id uuid NOT NULL,
    sequence     bigint NOT NULL,
    start        bigint NOT NULL,
    length       bigint NOT NULL,
    last_at      bigint NOT NULL,
    frames       bytea NOT NULL,
    PRIMARY KEY (execution_id, sequence)
);

CREATE TABLE engines (
    name        text PRIMARY KEY,
    kind        text NOT NULL,
    up          bigint NOT NULL,
    since       timestamptz NOT NULL,
    reason      text,
    version     text,
    served_at   timestamptz NOT NULL
);

-- The reconcilers that are alive. One whose lease has ended has lost all that it held.
CREATE TABLE reconcilers (
    id          text PRIMARY KEY,
    lease_until timestamptz NOT NULL
);

-- Facts about the deployment itself: its id, and whether changes are audited.
CREATE TABLE deployment (
    name  text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE audit (
    at       timestamptz NOT NULL,
    thing    text NOT NULL,
    id       uuid NOT NULL,
    revision bigint NOT NULL,
    wanted   text,
    phase    text
);
CREATE INDEX audit_by_thing ON audit (id, revision);

CREATE FUNCTION contexts_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (at, thing, id, revision)
        SELECT clock_timestamp(), 'context', NEW.id, NEW.revision
        FROM deployment WHERE name = 'audit' AND value = 'on';
    RETURN NULL;
END $$;
CREATE TRIGGER contexts_audit AFTER INSERT ON contexts FOR EACH ROW EXECUTE FUNCTION contexts_audit();

CREATE FUNCTION executions_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (at, thing, id, revision, wanted, phase)
        SELECT clock_timestamp(), 'execution', NEW.id, NEW.revision, NEW.wanted, NEW.phase
        FROM deployment WHERE name = 'audit' AND value = 'on';
    RETURN NULL;
END $$;
CREATE TRIGGER executions_audit_new AFTER INSERT ON executions FOR EACH ROW EXECUTE FUNCTION executions_audit();
CREATE TRIGGER executions_audit_change AFTER UPDATE OF wanted, phase ON executions FOR EACH ROW
    WHEN (OLD.wanted IS DISTINCT FROM NEW.wanted OR OLD.phase IS DISTINCT FROM NEW.phase)
    EXECUTE FUNCTION executions_audit();
