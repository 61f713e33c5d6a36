-- Selects the members of some archives that reach into a range of positions.
--
-- $1: the log's id
-- $2: the ids of the archives
-- $3, $4: the range, without its end
--
-- The statement reads the members of one archive after the other, through the index. While members are few, the planner
-- would rather read all of them, and Postgres keeps that plan while they become many. The wanted keys come from
-- subqueries, so that the planner does not know their number: if it did, Postgres would prefer a plan for that number,
-- and plan every execution anew.
SELECT
    members.archive_id, etag, object_bytes, members.member, byte_start, byte_end, members.json_bytes,
    members.first_position, members.last_position, members.count, members.count AS matching
FROM archives
JOIN unnest((SELECT $2::uuid[])) AS wanted (id) USING (id)
CROSS JOIN LATERAL (
    SELECT * FROM members
    WHERE members.log_id = archives.log_id
      AND members.archive_id = archives.id
      AND members.generation = archives.generation
      AND members.last_position >= $3
      AND members.first_position < $4
    OFFSET 0
) AS members
WHERE archives.log_id = $1
ORDER BY members.first_position, members.archive_id
