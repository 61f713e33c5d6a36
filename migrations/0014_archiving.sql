-- What archiving does not have to do.

-- Where the oldest events of a log are is told by the index, mostly without a look at their rows. Events can be read while
-- it is made.
CREATE INDEX events_age_index ON events (topic_id, raised_at, position) WHERE held_until IS NULL;
DROP INDEX events_raised_at_index;
