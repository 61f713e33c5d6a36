-- Selects the archives that reach into a range of positions: all that reach across its start, and the first $4 of the
-- others.
--
-- $1: the log's id
-- $2, $3: the range, without its end
-- $4: the limit
--
-- An archive of a magnitude that reaches across a position begins close to it, so the statement looks at a few rows for
-- each magnitude.
SELECT id, first_position, last_position, count AS matching
FROM (
    (
        -- The archives that begin before the range and reach across its start.
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
        WHERE first_position < $3
    )
    UNION ALL
    (
        SELECT * FROM archives
        WHERE log_id = $1
          AND first_position >= $2
          AND first_position < $3
        ORDER BY first_position, id
        LIMIT $4
    )
) AS archives
ORDER BY first_position, id
