-- What publishing does not have to do.

-- Rises whenever archived events turn out to be elsewhere, or other ones, than they were said to be: with a restore, a
-- repair, a recovery. What a process remembers of archived events holds while it stays.
ALTER TABLE topics RENAME COLUMN restored_count TO catalog_epoch;

-- Whoever changes how many events are hot says their magnitude: the expression of a generated column is planned anew with
-- every publish, and took a tenth of what Postgres did for it.
ALTER TABLE topics ALTER COLUMN hot_magnitude DROP EXPRESSION;
ALTER TABLE topics ALTER COLUMN hot_magnitude SET DEFAULT 0;

-- Statistics. Those of long columns, that no plan hangs on, and of 30,000 rows for the others kept a core busy for a
-- third of a second, as often as a tenth of the table had changed; a sample of 3,000 rows is enough for the rest.
ALTER TABLE events
    ALTER COLUMN deployment_id SET STATISTICS 0,
    ALTER COLUMN id SET STATISTICS 0,
    ALTER COLUMN reason SET STATISTICS 0,
    ALTER COLUMN causation_id SET STATISTICS 0,
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN payload SET STATISTICS 0,
    ALTER COLUMN gdpr SET STATISTICS 0,
    ALTER COLUMN topic_id SET STATISTICS 10,
    ALTER COLUMN position SET STATISTICS 10,
    ALTER COLUMN raised_at SET STATISTICS 10,
    ALTER COLUMN stream SET STATISTICS 10,
    ALTER COLUMN type SET STATISTICS 10,
    ALTER COLUMN correlation_id SET STATISTICS 10,
    ALTER COLUMN held_until SET STATISTICS 10;
ALTER INDEX events_gdpr_ids_index ALTER COLUMN 1 SET STATISTICS 0;
ALTER TABLE lookup_pages ALTER COLUMN entries SET STATISTICS 0;
