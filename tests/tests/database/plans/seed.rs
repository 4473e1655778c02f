//! Rows: 24,000 executions of 6,000 contexts, half of them alive and held by one reconciler, with logs, labels and a
//! queue.

/// Keeps PostgreSQL from analysing the tables in the midst of a test.
pub(super) const NEVER_BY_ITSELF: &str = "ALTER TABLE contexts SET (autovacuum_enabled = false); \
     ALTER TABLE executions SET (autovacuum_enabled = false); ALTER TABLE log_chunks SET (autovacuum_enabled = false); \
     ALTER TABLE context_labels SET (autovacuum_enabled = false); \
     ALTER TABLE execution_labels SET (autovacuum_enabled = false);";

/// The rows, for PostgreSQL.
pub(super) const POSTGRES: &str = r#"
INSERT INTO contexts (id, owner, created_at, spec)
    SELECT ('01890000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'owner-' || n % 50, now(),
        '{"image": "busybox", "labels": ["team=one"]}' FROM generate_series(0, 5999) AS n;
INSERT INTO executions (id, context_id, owner, requested_by, created_at, namespace, environment, phase, engine, slot,
        queued_on, holder, due_at)
    SELECT ('01890000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid,
        ('01890000-0000-7000-8000-' || lpad((n % 6000)::text, 12, '0'))::uuid, 'owner-' || n % 50,
        'owner-' || n % 50, now(), 'default', '{}',
        CASE WHEN n % 2 = 0 THEN 'exited' WHEN n % 10 = 1 THEN 'pending' ELSE 'running' END,
        CASE WHEN n % 10 <> 1 THEN 'docker' END, CASE WHEN n % 2 = 1 AND n % 10 <> 1 THEN n END,
        CASE WHEN n % 20 = 1 THEN ',docker,' END, CASE WHEN n % 2 = 1 THEN 'one' END,
        CASE WHEN n % 10 = 1 THEN now() END
    FROM generate_series(0, 23999) AS n;
INSERT INTO log_chunks (execution_id, sequence, start, length, last_at, frames)
    SELECT ('01890000-0000-7000-9000-' || lpad((n / 4)::text, 12, '0'))::uuid, 1 + n % 4, n % 4 * 10, 10, n, 'x'
    FROM generate_series(0, 19999) AS n;
INSERT INTO reconcilers (id, lease_until) VALUES ('one', now() + interval '1 day'), ('two', now() + interval '1 day');
INSERT INTO engines (name, kind, up, since, served_at) VALUES ('docker', 'docker', 1, now(), now());
"#;

/// The same, for SQLite.
pub(super) const SQLITE: &str = r#"
BEGIN;
INSERT INTO contexts (id, owner, created_at, spec)
    WITH RECURSIVE series (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < 5999)
    SELECT '01890000-0000-7000-8000-' || printf('%012d', n), 'owner-' || n % 50, n,
        '{"image": "busybox", "labels": ["team=one"]}' FROM series;
INSERT INTO executions (id, context_id, owner, requested_by, created_at, namespace, environment, phase, engine, slot,
        queued_on, holder, due_at)
    WITH RECURSIVE series (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < 23999)
    SELECT '01890000-0000-7000-9000-' || printf('%012d', n), '01890000-0000-7000-8000-' || printf('%012d', n % 6000),
        'owner-' || n % 50, 'owner-' || n % 50, n, 'default', '{}',
        CASE WHEN n % 2 = 0 THEN 'exited' WHEN n % 10 = 1 THEN 'pending' ELSE 'running' END,
        CASE WHEN n % 10 <> 1 THEN 'docker' END, CASE WHEN n % 2 = 1 AND n % 10 <> 1 THEN n END,
        CASE WHEN n % 20 = 1 THEN ',docker,' END, CASE WHEN n % 2 = 1 THEN 'one' END,
        CASE WHEN n % 10 = 1 THEN n END
    FROM series;
INSERT INTO log_chunks (execution_id, sequence, start, length, last_at, frames)
    WITH RECURSIVE series (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < 19999)
    SELECT '01890000-0000-7000-9000-' || printf('%012d', n / 4), 1 + n % 4, n % 4 * 10, 10, n, x'00' FROM series;
INSERT INTO reconcilers (id, lease_until) VALUES ('one', 1 << 60), ('two', 1 << 60);
INSERT INTO engines (name, kind, up, since, served_at) VALUES ('docker', 'docker', 1, 0, 0);
COMMIT;
"#;
