-- The token of whoever asked, sealed with a key that is not in the database, until the container is launched. Written with the
-- row by the API, emptied by whatever makes the launch done or pointless.
ALTER TABLE executions ADD COLUMN sealed_token BLOB;
