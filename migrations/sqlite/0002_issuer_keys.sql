-- The token issuers' public keys, fetched by one instance of the API for all: a burst of new instances is then no burst on
-- the issuer. `tried_at` is when somebody last set out to fetch them, `settled` whether that attempt is over, and
-- `missed_at` when somebody last did so because a token named a key that was not among them.
CREATE TABLE issuer_keys (
    issuer     TEXT PRIMARY KEY NOT NULL,
    keys       TEXT,
    fetched_at INTEGER,
    expires_at INTEGER,
    tried_at   INTEGER NOT NULL,
    settled    INTEGER NOT NULL,
    missed_at  INTEGER,
    failure    TEXT
) STRICT, WITHOUT ROWID;
