-- The reconcilers that serve an engine. The engine is confirmed as long as the lease of one of them holds, so a reconciler confirms
-- all of its engines with each renewal of its lease. The row of an engine that was taken out of the configuration is
-- recognised by rows here whose reconcilers are all gone.
CREATE TABLE served_engines (
    engine     text NOT NULL,
    reconciler text NOT NULL,
    PRIMARY KEY (engine, reconciler)
);
