-- Restores put archived events back into rows; scrubs verify archives in the background.

-- A restored event is not archived again before. Null for all others.
ALTER TABLE events ADD COLUMN held_until timestamptz;
-- What is held is not looked at to see whether there is something to archive.
DROP INDEX events_raised_at_index;
CREATE INDEX events_raised_at_index ON events (topic_id, raised_at) WHERE held_until IS NULL;
CREATE INDEX events_held_index ON events (topic_id, held_until, raised_at) WHERE held_until IS NOT NULL;

-- Ever. Whoever looks at rows first and at archives afterwards compares it: events have moved the other way.
ALTER TABLE topics ADD COLUMN restored_count bigint NOT NULL DEFAULT 0;

-- When the last scrub took it up.
ALTER TABLE archives ADD COLUMN scrubbed_at timestamptz;
CREATE INDEX archives_scrubbed_at_index ON archives (scrubbed_at NULLS FIRST, topic_id, id);
