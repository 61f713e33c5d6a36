-- Moves the end of a log, if the log's row is what it was when it was read, and none of the new ids is hot. Returns the
-- position at which the log ended before.
--
-- $1 to $4: the log's id, and the archived count, the catalog epoch and the deleted count that the caller read
-- $5: the number of events
-- $6: the ids of the events
--
-- The update waits for the row and sees it as it is then, however old the view of the statement is. The index on ids
-- refuses a known id in any case. But inserting an id that an archiver is deleting would wait for the archiver with the
-- log's row locked, so the update looks for the ids first while somebody has the log's lease. It looks in the order of
-- the ids, which only one index has: while the table is small, other indexes that begin with the log look as good to
-- the planner, and Postgres keeps a plan while the table grows.
UPDATE logs SET head_position = head_position + $5,
    hot_magnitude = magnitude(head_position + $5 - archived_count - deleted_count)
WHERE id = $1
  AND archived_count = $2
  AND catalog_epoch = $3
  AND deleted_count = $4
  AND (
      lease_holder IS NULL
      OR NOT EXISTS (
          SELECT FROM unnest($6::text[]) AS wanted (id)
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
