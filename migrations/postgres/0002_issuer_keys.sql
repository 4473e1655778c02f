-- The token issuers' public keys, fetched by one instance of the API for all: a burst of new instances is then no burst on
-- the issuer. `tried_at` is when somebody last set out to fetch them, `settled` whether that attempt is over, and
-- `missed_at` when somebody last did so because a token named a key that was not among them.
CREATE TABLE issuer_keys (
    issuer     text PRIMARY KEY,
    keys       text,
    fetched_at timestamptz,
    expires_at timestamptz,
    tried_at   timestamptz NOT NULL,
    settled    bigint NOT NULL,
    missed_at  timestamptz,
    failure    text
);
