-- What is wrong with one object: S3 refuses it, it is damaged, or it may not be deleted. Whoever meets it writes it down and
-- goes on with everything else; in the background it is asked for again ever more rarely, and operators see what there is.

CREATE TABLE troubles (
    topic_id bigint NOT NULL,
    -- Of an archive that the catalog or an intent knows; where the kind is 'recover', nothing may know it.
    archive_id uuid NOT NULL,
    -- What was not possible: 'read', 'delete', or 'recover' where it could not be taken over.
    kind text NOT NULL,
    why text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts bigint NOT NULL DEFAULT 1,
    retry_at timestamptz NOT NULL,
    CONSTRAINT troubles_pkey PRIMARY KEY (topic_id, archive_id, kind)
);
