-- The reconcilers that serve an engine. The engine is confirmed as long as the lease of one of them holds, so a reconciler confirms
-- all of its engines with each renewal of its lease. The row of an engine that was taken out of the configuration is
-- recognised by rows here whose reconcilers are all gone.
CREATE TABLE served_engines (
    engine     text NOT NULL,
    reconciler text NOT NULL,
    PRIMARY KEY (engine, reconciler)
);

-- What a placed execution takes of each extended resource, such as {"nvidia.com/gpu": 2}; NULL: of none. `gpus`, which adds all of
-- them up, is still written for reconcilers of the version before. What is placed already is read from its specification.
ALTER TABLE executions ADD COLUMN extended jsonb;
CREATE INDEX executions_extended ON executions (engine)
    WHERE extended IS NOT NULL AND phase IN ('scheduled', 'starting', 'running', 'stopping');
UPDATE executions SET extended = (SELECT jsonb_object_agg(key, amount) FROM (
        SELECT given.key, MAX(CASE WHEN given.value ~ '^[0-9]{1,15}$' THEN given.value::bigint ELSE 0 END) AS amount FROM (
            SELECT limits.key, limits.value FROM contexts, jsonb_each_text(
                CASE jsonb_typeof(contexts.spec #> '{resources,limits}') WHEN 'object' THEN contexts.spec #> '{resources,limits}' END
            ) AS limits
            WHERE contexts.id = executions.context_id
            UNION ALL
            SELECT requests.key, requests.value FROM contexts, jsonb_each_text(
                CASE jsonb_typeof(contexts.spec #> '{resources,requests}') WHEN 'object' THEN contexts.spec #> '{resources,requests}' END
            ) AS requests
            WHERE contexts.id = executions.context_id
        ) AS given WHERE given.key LIKE '%/%' GROUP BY given.key) AS amounts)
    WHERE gpus > 0 AND phase IN ('scheduled', 'starting', 'running', 'stopping');
