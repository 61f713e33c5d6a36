-- The ledger of edits, and the edits that are still to reach their archives.
--
-- An edit changes published events: a patch of a payload, a field that becomes personal, a GDPR id that is invalidated,
-- a type that gets another name. One transaction changes the rows of hot events, lays a pending edit over archived
-- ones, and writes the ledger. Every read shows the new value from its commit on. A rewrite then brings the pending
-- edits of an archive into its object, and a purge deletes what still bears the old value.

-- The ledger says who changed which fields of which event, when and why, and never a value.
CREATE TABLE edits (
    id uuid NOT NULL,
    log_id bigint NOT NULL,
    -- The log's edit counter after this edit: the order of the edits of a log.
    sequence bigint NOT NULL,
    -- 'patch', 'introduce' (a field became personal), 'invalidate' or 'rename'.
    kind text NOT NULL,
    -- An event's id; the GDPR id if the kind is 'invalidate'; the old name of the type if it is 'rename'.
    subject text NOT NULL,
    -- Null if any number of events was changed.
    position bigint,
    -- Null if the events were hot.
    archive_id uuid,
    -- JSON pointers to what was changed and to what was not there; the new name of the type if the kind is 'rename'.
    changed text[] NOT NULL,
    missing text[] NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    ticket text NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    -- The time at which the value was replaced where it is kept: accepted_at if the events were hot.
    applied_at timestamptz,
    -- The time from which nothing bears the old value, noncurrent versions of the object included.
    purged_at timestamptz,
    CONSTRAINT edits_pkey PRIMARY KEY (id)
);

CREATE INDEX edits_log_index ON edits (log_id, sequence);
CREATE INDEX edits_unpurged_index ON edits (log_id, archive_id) WHERE purged_at IS NULL;
-- An invalidation is not laid over an archive a second time.
CREATE INDEX edits_invalidated_index ON edits (log_id, subject) WHERE kind = 'invalidate';
-- A publish that repeats an event is compared without the fields that patches have changed since.
CREATE INDEX edits_patched_index ON edits (log_id, position) WHERE kind = 'patch';

-- Changes that the objects of their archives do not hold yet: every read applies them, in the order of their sequences.
-- A row goes once a rewrite or a restore has applied it.
CREATE TABLE pending_edits (
    log_id bigint NOT NULL,
    -- An invalidation or a rename may be about any number of events, so a pending edit covers a range of its archive's
    -- positions. The range of a patch is one position.
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    sequence bigint NOT NULL,
    edit_id uuid NOT NULL,
    archive_id uuid NOT NULL,
    -- The change, as JSON. One kind of change is a JSON Merge Patch of the payload.
    change text NOT NULL,
    CONSTRAINT pending_edits_pkey PRIMARY KEY (log_id, first_position, sequence)
);

CREATE INDEX pending_edits_archive_index ON pending_edits (log_id, archive_id);

-- GDPR ids of fields that became personal after they were archived: the lookup pages of their archives do not know
-- them.
CREATE TABLE introduced_gdpr_ids (
    log_id bigint NOT NULL,
    gdpr_id text COLLATE "C" NOT NULL,
    archive_id uuid NOT NULL,
    position bigint NOT NULL,
    CONSTRAINT introduced_gdpr_ids_pkey PRIMARY KEY (log_id, gdpr_id)
);
