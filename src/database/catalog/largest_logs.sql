-- Selects the logs with the most hot events, and figures of these events.
--
-- $1: the limit
SELECT logs.*, hot.row_bytes, hot.oldest_raised_at
FROM (
    SELECT
        id, tenant, topic, head_position, archived_count, archived_to, deleted_count,
        archived_json_bytes, archived_object_bytes, edit_counter, catalog_epoch, hot_magnitude
    FROM logs
    ORDER BY
        head_position - archived_count - deleted_count DESC, head_position DESC, tenant, topic
    LIMIT $1
) AS logs
CROSS JOIN LATERAL (
    SELECT
        (
            SELECT coalesce(avg(pg_column_size(sample.*)), 0)::float8
            FROM (SELECT * FROM events WHERE log_id = logs.id ORDER BY position LIMIT 100) AS sample
        ) AS row_bytes,
        least(
            (SELECT min(raised_at) FROM events WHERE log_id = logs.id AND held_until IS NULL),
            (SELECT min(raised_at) FROM events WHERE log_id = logs.id AND held_until IS NOT NULL)
        ) AS oldest_raised_at
) AS hot
ORDER BY
    logs.head_position - logs.archived_count - logs.deleted_count DESC, logs.head_position DESC,
    logs.tenant, logs.topic
