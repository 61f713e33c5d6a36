-- Changes beside edits of one payload: a field becomes personal, a GDPR id is invalidated, a type gets another name.
-- The last two are about any number of events: a pending edit covers a range of positions of its archive.

ALTER TABLE pending_edits RENAME COLUMN position TO first_position;
ALTER TABLE pending_edits ADD COLUMN last_position bigint;
UPDATE pending_edits SET last_position = first_position;
ALTER TABLE pending_edits ALTER COLUMN last_position SET NOT NULL;
-- What is done, as JSON: a patch of the payload is one kind of it.
ALTER TABLE pending_edits RENAME COLUMN patch TO change;
UPDATE pending_edits SET change = '{"patch":' || change || '}';

ALTER TABLE edits ADD COLUMN kind text NOT NULL DEFAULT 'patch';
ALTER TABLE edits ALTER COLUMN kind DROP DEFAULT;
-- An event's id, a GDPR id, or the name that a type had.
ALTER TABLE edits RENAME COLUMN event_id TO subject;
-- Null where any number of events was changed.
ALTER TABLE edits ALTER COLUMN position DROP NOT NULL;

CREATE INDEX edits_invalidated_index ON edits (topic_id, subject) WHERE kind = 'invalidate';

-- GDPR ids of fields that became personal after they were archived: the lookup pages of their archives do not know
-- them.
CREATE TABLE introduced_gdpr_ids (
    topic_id bigint NOT NULL,
    gdpr_id text COLLATE "C" NOT NULL,
    archive_id uuid NOT NULL,
    position bigint NOT NULL,
    CONSTRAINT introduced_gdpr_ids_pkey PRIMARY KEY (topic_id, gdpr_id)
);

-- Of fields that still show their value.
CREATE FUNCTION gdpr_ids(gdpr text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT array_agg(field.value ->> 'id')
    FROM json_each(gdpr::json) AS field
    WHERE NOT (field.value ->> 'is_invalidated')::boolean
);

CREATE INDEX events_gdpr_ids_index ON events USING gin (gdpr_ids(gdpr)) WHERE gdpr IS NOT NULL;
CREATE INDEX snapshots_gdpr_ids_index ON snapshots USING gin (gdpr_ids(gdpr)) WHERE gdpr IS NOT NULL;

-- Of positions that were given: their events were deleted once everybody who had to had handled them.
ALTER TABLE topics ADD COLUMN deleted_count bigint NOT NULL DEFAULT 0;
