-- What reading does not have to do.

-- No archived event has a higher position: a read from there on does not look at archives.
ALTER TABLE topics ADD COLUMN archived_to bigint NOT NULL DEFAULT 0;
UPDATE topics
SET archived_to = coalesce((SELECT max(last_position) FROM archives WHERE archives.topic_id = topics.id), 0);

-- A page far into the events of some types is found by passing over a hundred archives at a time.

-- What the archives of a merged lookup reach over and hold together. Null for an archive's own, of which its row of
-- archives says it; and where one of the archives has left since.
ALTER TABLE lookups
    ADD COLUMN first_position bigint,
    ADD COLUMN last_position bigint,
    ADD COLUMN types text[],
    ADD COLUMN type_counts bigint[];

-- What it has to be.
CREATE VIEW lookup_sums AS
SELECT lookups.topic_id, lookups.id, sums.*
FROM lookups
CROSS JOIN LATERAL (
    SELECT min(first_position) AS first_position, max(last_position) AS last_position,
           array_agg(type ORDER BY type) AS types, array_agg(count ORDER BY type) AS type_counts
    FROM (
        SELECT type, sum(held.count)::bigint AS count, min(first_position) AS first_position,
               max(last_position) AS last_position
        FROM archives
        CROSS JOIN unnest(archives.types, archives.type_counts) AS held (type, count)
        WHERE archives.topic_id = lookups.topic_id AND archives.id = ANY(lookups.archive_ids)
        GROUP BY type
    ) AS of_types
) AS sums
WHERE lookups.level > 0;

UPDATE lookups
SET first_position = sums.first_position, last_position = sums.last_position, types = sums.types,
    type_counts = sums.type_counts
FROM lookup_sums AS sums
WHERE sums.topic_id = lookups.topic_id AND sums.id = lookups.id;
