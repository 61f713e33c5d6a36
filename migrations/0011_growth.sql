-- What is asked often costs the same however many archives, tenants and topics there are.

-- Lookups are merged as archives add up.

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

-- How many binary digits a number has.
CREATE FUNCTION magnitude(number bigint) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN length(ltrim(number::bit(64)::text, '0'));

-- Whose turn it is to be archived is found without a look at topics that have little that is hot. It changes with every
-- doubling only, so that publishing stays out of the indexes (HOT).
ALTER TABLE topics ADD COLUMN hot_magnitude integer NOT NULL
    GENERATED ALWAYS AS (magnitude(head_position - archived_count - deleted_count)) STORED;
CREATE INDEX topics_hot_magnitude_index ON topics (hot_magnitude);

-- Which archives begin behind a position; and which reach across one: those of about one length begin close to it.
CREATE INDEX archives_first_position_index ON archives (topic_id, first_position, id);
CREATE INDEX archives_reach_index ON archives (topic_id, magnitude(last_position - first_position), first_position);
DROP INDEX archives_last_position_index;
