-- What a publisher repeats is known after it was edited, and for a while after it was deleted.

-- Ids of events that were deleted once everybody who had to had handled them: a client that missed the reply to its
-- publish repeats it for some seconds.
CREATE TABLE consumed_ids (
    topic_id bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    consumed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT consumed_ids_pkey PRIMARY KEY (topic_id, id)
);

CREATE INDEX consumed_ids_age_index ON consumed_ids (topic_id, consumed_at);

-- The fields that patches have changed in an event.
CREATE INDEX edits_patched_index ON edits (topic_id, position) WHERE kind = 'patch';
