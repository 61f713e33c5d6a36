-- Inserts events at the positions that they bear.
--
-- $1: the log's id
-- $2: the end of the hold
-- $3 to $14: the columns of the events, each as an array
INSERT INTO events (
    log_id, held_until, id, position, raised_at, deployment_id, stream, type, reason,
    correlation_id, causation_id, user_id, payload, gdpr
)
SELECT $1, $2, new.*
FROM unnest(
    $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[], $14::text[]
) AS new (
    id, position, raised_at, deployment_id, stream, type, reason,
    correlation_id, causation_id, user_id, payload, gdpr
)
