-- Selects the archives that archive_extents.sql selects, as far as they hold events of some types, and counts these.
--
-- $1: the log's id
-- $2, $3: the range, without its end
-- $4: the limit
-- $5: the types
--
-- An archive of a magnitude that reaches across a position begins close to it, so the statement looks at a few rows for
-- each magnitude.
SELECT id, first_position, last_position, sum(count)::bigint AS matching
FROM (
    SELECT id, first_position, last_position, unnest(types) AS type, unnest(type_counts) AS count
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
              AND types && $5
        )
        UNION ALL
        (
            SELECT * FROM archives
            WHERE log_id = $1
              AND first_position >= $2
              AND first_position < $3
              AND types && $5
            ORDER BY first_position, id
            LIMIT $4
        )
    ) AS archives
) AS held
WHERE type = ANY($5)
GROUP BY id, first_position, last_position
ORDER BY first_position, id
