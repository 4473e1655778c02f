-- What an engine offers: its options, what it accepts and how much room it has, as JSON; and the namespaces that may be asked
-- for, between commas, since the API looks at them with every request. NULL: any. `url` is where it is, so that one which was taken
-- out of the configuration can be looked after until what it runs has ended.
ALTER TABLE engines ADD COLUMN offer jsonb NOT NULL DEFAULT '{}';
ALTER TABLE engines ADD COLUMN namespaces text;
ALTER TABLE engines ADD COLUMN url text;

-- What the token of whoever asked said of them, as far as an engine may require it. Written by the API.
ALTER TABLE executions ADD COLUMN claims jsonb NOT NULL DEFAULT '[]';
-- Where it runs and why there. Written by the reconciler: the decision; which of the engine's places it has, where they are numbered;
-- the engines that it waits for, between commas; and what it takes of the engine, in thousandths of a processor, bytes and pieces.
ALTER TABLE executions ADD COLUMN placement jsonb;
ALTER TABLE executions ADD COLUMN slot bigint;
ALTER TABLE executions ADD COLUMN queued_on text;
ALTER TABLE executions ADD COLUMN cpu_millis bigint NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN memory_bytes bigint NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN gpus bigint NOT NULL DEFAULT 0;

-- No two of an engine have the same place: this is what keeps its limit, however many reconcilers place at once.
CREATE UNIQUE INDEX executions_slots ON executions (engine, slot) WHERE slot IS NOT NULL;
CREATE INDEX executions_placed ON executions (engine, owner)
    WHERE phase IN ('scheduled', 'starting', 'running', 'stopping');
CREATE INDEX executions_queued ON executions (owner, id) WHERE queued_on IS NOT NULL;

-- When an owner's execution was last placed on an engine that others waited for: of two who have as many there, it is the turn of the one who
-- was served longer ago.
CREATE TABLE turns (
    engine    text NOT NULL,
    owner     text NOT NULL,
    served_at timestamptz NOT NULL,
    PRIMARY KEY (engine, owner)
);
