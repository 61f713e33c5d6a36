-- What archiving does not have to do.

-- Where the oldest events of a log are is told by the index alone, without a look at their rows.
DROP INDEX events_raised_at_index;
CREATE INDEX events_raised_at_index ON events (topic_id, raised_at, position) WHERE held_until IS NULL;
