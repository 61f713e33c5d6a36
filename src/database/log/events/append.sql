-- Inserts new events behind the end of their log, after move_end.sql has moved it: the two are one statement, with that
-- as `log`.
--
-- $1 to $6: the parameters of move_end.sql
-- $7 to $17: the other columns of the events, each as an array
INSERT INTO events (
    log_id, id, position, raised_at, deployment_id, stream, type, reason,
    correlation_id, causation_id, user_id, payload, gdpr
)
SELECT
    log_id, new.id, end_position + position, raised_at, deployment_id, stream, type, reason,
    correlation_id, causation_id, user_id, payload, gdpr
FROM log, unnest(
    $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[],
    $13::text[], $14::text[], $15::text[], $16::text[], $17::text[]
) AS new (
    id, position, raised_at, deployment_id, stream, type, reason,
    correlation_id, causation_id, user_id, payload, gdpr
)
