-- Inserts one new event as append.sql inserts many, with single values in the place of arrays.
--
-- $1 to $6: the parameters of move_end.sql
-- $7 to $17: the other columns of the event
INSERT INTO events (
    log_id, id, position, raised_at, deployment_id, stream, type, reason,
    correlation_id, causation_id, user_id, payload, gdpr
)
SELECT
    log_id, ($6::text[])[1], end_position + $7::bigint, $8::bigint, $9::bigint, $10::text, $11::text, $12::text,
    $13::text, $14::text, $15::text, $16::text, $17::text
FROM log
