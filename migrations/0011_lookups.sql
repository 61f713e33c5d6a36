-- Lookups are merged as archives add up, so that looking for an id, a stream or a GDPR id costs the same however many
-- archives there are.

-- What is looked through: the lookup pages of an archive, or the merged ones of up to ten or a hundred.
CREATE TABLE lookups (
    topic_id bigint NOT NULL,
    -- The archive's, or the merge's own.
    id uuid NOT NULL,
    -- 0 for an archive's own; what is merged from ten of a level is of the next.
    level smallint NOT NULL,
    runs integer NOT NULL,
    -- Entries name an archive by its place here. Null where an archive is kept elsewhere by now, or is no more.
    archive_ids uuid[] NOT NULL,
    CONSTRAINT lookups_pkey PRIMARY KEY (topic_id, id)
);

INSERT INTO lookups (topic_id, id, level, runs, archive_ids)
SELECT topic_id, id, 0, lookup_runs, ARRAY[id] FROM archives;
ALTER TABLE archives DROP COLUMN lookup_runs;

ALTER TABLE lookup_pages RENAME COLUMN archive_id TO lookup_id;
-- Merges delete what they are made of: vacuum has to follow them.
ALTER TABLE lookup_pages SET (autovacuum_vacuum_scale_factor = 0.05);
