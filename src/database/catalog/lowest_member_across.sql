-- Selects the first position of the lowest member that begins before a position and reaches across it.
--
-- $1: the log's id
-- $2: the position
--
-- An archive of a magnitude that reaches across a position begins close to it, so the statement looks at a few rows for
-- each magnitude.
SELECT min(lowest.first_position)
FROM (
    SELECT across.*
    FROM generate_series(0, 62) AS reach (magnitude)
    CROSS JOIN LATERAL (
        SELECT * FROM archives
        WHERE log_id = $1
          AND magnitude(last_position - first_position) = reach.magnitude
          AND first_position > $2 - (1::bigint << reach.magnitude)
          AND first_position < $2
          AND last_position >= $2
        OFFSET 0
    ) AS across
) AS archives
CROSS JOIN LATERAL (
    SELECT first_position FROM members
    WHERE log_id = $1
      AND archive_id = archives.id
      AND generation = archives.generation
      AND first_position < $2
      AND last_position >= $2
    OFFSET 0
) AS lowest
