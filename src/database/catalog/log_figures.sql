-- Selects figures of a log's hot events: the bytes of a row on average, and the oldest instant.
SELECT
    (
        SELECT coalesce(avg(pg_column_size(sample.*)), 0)::float8
        FROM (SELECT * FROM events WHERE log_id = logs.id ORDER BY position LIMIT 100) AS sample
    ) AS row_bytes,
    least(
        (SELECT min(raised_at) FROM events WHERE log_id = logs.id AND held_until IS NULL),
        (SELECT min(raised_at) FROM events WHERE log_id = logs.id AND held_until IS NOT NULL)
    ) AS oldest_raised_at
