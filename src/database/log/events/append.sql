-- Appends events to their log: moves the end of the log as move_end.sql does, and inserts the events behind it. Returns
-- the position at which the log ended before.
--
-- $1 to $4: the log's id, and the archived count, the catalog epoch and the deleted count that the caller read
-- $5: the number of events
-- $6 to $17: the columns of the events, each as an array
WITH log AS (
    UPDATE logs SET head_position = head_position + $5,
        hot_magnitude = magnitude(head_position + $5 - archived_count - deleted_count)
    WHERE id = $1
      AND archived_count = $2
      AND catalog_epoch = $3
      AND deleted_count = $4
      AND (
          lease_holder IS NULL
          OR NOT EXISTS (
              SELECT FROM unnest($9::text[]) AS wanted (id)
              CROSS JOIN LATERAL (
                  SELECT events.log_id, events.id FROM events
                  WHERE (events.log_id, events.id) >= ($1, wanted.id)
                  ORDER BY events.log_id, events.id
                  LIMIT 1
              ) AS next
              WHERE next.log_id = $1
                AND next.id = wanted.id
          )
      )
    RETURNING id AS log_id, head_position - $5 AS end_position
), appended AS (
    INSERT INTO events (
        log_id, position, raised_at, deployment_id, id, stream, type, reason,
        correlation_id, causation_id, user_id, payload, gdpr
    )
    SELECT
        log_id, end_position + position, raised_at, deployment_id, id, stream, type, reason,
        correlation_id, causation_id, user_id, payload, gdpr
    FROM log, unnest(
        $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[],
        $13::text[], $14::text[], $15::text[], $16::text[], $17::text[]
    ) AS new (
        position, raised_at, deployment_id, id, stream, type, reason,
        correlation_id, causation_id, user_id, payload, gdpr
    )
)
SELECT end_position FROM log
