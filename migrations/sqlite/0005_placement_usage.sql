-- The reconcilers that serve an engine. The engine is confirmed as long as the lease of one of them holds, so a reconciler confirms
-- all of its engines with each renewal of its lease. The row of an engine that was taken out of the configuration is
-- recognised by rows here whose reconcilers are all gone.
CREATE TABLE served_engines (
    engine     TEXT NOT NULL,
    reconciler TEXT NOT NULL,
    PRIMARY KEY (engine, reconciler)
) STRICT, WITHOUT ROWID;

-- What a placed execution takes of each extended resource, such as {"nvidia.com/gpu": 2}; NULL: of none. `gpus`, which adds all of
-- them up, is still written for reconcilers of the version before. What is placed already is read from its specification.
ALTER TABLE executions ADD COLUMN extended TEXT CHECK (extended IS NULL OR json_valid(extended));
CREATE INDEX executions_extended ON executions (engine)
    WHERE extended IS NOT NULL AND phase IN ('scheduled', 'starting', 'running', 'stopping');
UPDATE executions SET extended = (SELECT json_group_object(key, amount) FROM (
        SELECT given.key AS key, MAX(CAST(given.value AS INTEGER)) AS amount FROM (
            SELECT limits.key, limits.value FROM contexts, json_each(contexts.spec, '$.resources.limits') AS limits
            WHERE contexts.id = executions.context_id
            UNION ALL
            SELECT requests.key, requests.value FROM contexts, json_each(contexts.spec, '$.resources.requests') AS requests
            WHERE contexts.id = executions.context_id
        ) AS given WHERE given.key LIKE '%/%' GROUP BY given.key))
    WHERE gpus > 0 AND phase IN ('scheduled', 'starting', 'running', 'stopping');
