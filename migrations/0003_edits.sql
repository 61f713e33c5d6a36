-- Edits. The ledger says who changed which fields of which event, when and why, and never a value. A pending edit
-- carries the new value of an archived event until the archive's object is rewritten; every read lays it over.

CREATE TABLE edits (
    id uuid NOT NULL,
    topic_id bigint NOT NULL,
    -- The topic's edit counter after this edit: the order of edits of one topic.
    sequence bigint NOT NULL,
    position bigint NOT NULL,
    event_id text NOT NULL,
    -- Null where the event was hot.
    archive_id uuid,
    -- JSON pointers of what changed and of what was not there.
    changed text[] NOT NULL,
    missing text[] NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    ticket text NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    -- When the value had been replaced where it is kept; accepted_at for a hot event.
    applied_at timestamptz,
    -- When nothing was left that bears the old value: noncurrent versions of the object included.
    purged_at timestamptz,
    CONSTRAINT edits_pkey PRIMARY KEY (id)
);

CREATE INDEX edits_topic_index ON edits (topic_id, sequence);
CREATE INDEX edits_unpurged_index ON edits (topic_id, archive_id) WHERE purged_at IS NULL;

CREATE TABLE pending_edits (
    topic_id bigint NOT NULL,
    position bigint NOT NULL,
    sequence bigint NOT NULL,
    edit_id uuid NOT NULL,
    archive_id uuid NOT NULL,
    -- A JSON Merge Patch of the payload.
    patch text NOT NULL,
    CONSTRAINT pending_edits_pkey PRIMARY KEY (topic_id, position, sequence)
);

CREATE INDEX pending_edits_archive_index ON pending_edits (topic_id, archive_id);
