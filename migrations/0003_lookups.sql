-- Lookups: which member of which archive holds an event id, a stream or a GDPR id.
--
-- The ids in an archive are hashed with the deployment's key, and the sorted hashes (a run) are cut into pages of one
-- row each. Two ids may share a hash, so a page says "perhaps" or "no", and the reader compares what it finds in the
-- member.
--
-- Each archive has a lookup of its own at first. Ten lookups are merged into one as archives add up, and ten of those
-- into one of a hundred archives, so that looking for something costs about the same however many archives there are.

CREATE TABLE lookups (
    log_id bigint NOT NULL,
    -- The archive's id, or an id of the merge's own.
    id uuid NOT NULL,
    -- 0 for the lookup of one archive. Ten lookups of a level are merged into one of the next.
    level smallint NOT NULL,
    runs integer NOT NULL,
    -- The entries of the pages name an archive by its place in this array. A place is null once its archive has left
    -- the catalog, or has pages of its own again.
    archive_ids uuid[] NOT NULL,
    -- The sums of a merge: the range of its archives, and their events by type. A page far into the events of some
    -- types passes over a hundred archives at a time by them. Null at level 0, where the archive's own row says it, and
    -- null from the moment when an archive leaves the merge.
    first_position bigint,
    last_position bigint,
    types text[],
    type_counts bigint[],
    CONSTRAINT lookups_pkey PRIMARY KEY (log_id, id)
);

-- Computes the sums that each merge has to have.
CREATE VIEW lookup_sums AS
SELECT lookups.log_id, lookups.id, sums.*
FROM lookups
CROSS JOIN LATERAL (
    SELECT min(first_position) AS first_position, max(last_position) AS last_position,
           array_agg(type ORDER BY type) AS types, array_agg(count ORDER BY type) AS type_counts
    FROM (
        SELECT type, sum(held.count)::bigint AS count, min(first_position) AS first_position,
               max(last_position) AS last_position
        FROM archives
        CROSS JOIN unnest(archives.types, archives.type_counts) AS held (type, count)
        WHERE archives.log_id = lookups.log_id AND archives.id = ANY(lookups.archive_ids)
        GROUP BY type
    ) AS of_types
) AS sums
WHERE lookups.level > 0;

-- Each run has one page that may hold a hash: the page with the greatest first_hash that is not above it.
CREATE TABLE lookup_pages (
    log_id bigint NOT NULL,
    lookup_id uuid NOT NULL,
    -- 1: event id → member; 2: stream → members; 3: GDPR id → member.
    kind smallint NOT NULL,
    run integer NOT NULL,
    first_hash bigint NOT NULL,
    entries bytea NOT NULL,
    CONSTRAINT lookup_pages_pkey PRIMARY KEY (log_id, lookup_id, kind, run, first_hash)
) WITH (
    -- A merge deletes the pages that it was made of, and vacuum has to follow.
    autovacuum_vacuum_scale_factor = 0.05
);

-- Hashes do not compress, a page fits its row, and no plan depends on what is in one.
ALTER TABLE lookup_pages
    ALTER COLUMN entries SET STORAGE EXTERNAL,
    ALTER COLUMN entries SET STATISTICS 0;
