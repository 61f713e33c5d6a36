-- Selects the archives of the log $1 that begin before the position $2 and reach across it.
--
-- An archive of a magnitude that reaches across a position begins close to it, so the statement looks at a few rows for
-- each magnitude.
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
