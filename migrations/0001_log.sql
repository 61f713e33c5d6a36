-- Logs and the events that are still in Postgres.
--
-- A log holds the events of one tenant and one topic, in the order in which they were published. A publish locks the
-- log's row, gives each new event the next position, and commits both together: a reader who sees a position sees every
-- position below it. An event is hot while it is a row of `events`. Old events move into archives on S3, which
-- 0002_catalog.sql describes; the log's row counts how many events are where:
--
--     head_position = hot events + archived_count + deleted_count
--
-- Every key of these tables starts with the log's id, so that a log is one range of each index, and one shard where the
-- database is a distributed one.

-- Counts the binary digits of a number; 0 has none. Two indexes group rows by magnitude: logs by how many hot events
-- they have, and archives by how far they reach.
CREATE FUNCTION magnitude(number bigint) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN length(ltrim(number::bit(64)::text, '0'));

CREATE TABLE logs (
    id bigint GENERATED ALWAYS AS IDENTITY,
    -- Names are compared byte by byte ("C"): NFC and NFD are two names.
    tenant text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    -- The position of the newest event. Positions count from 1 without gaps.
    head_position bigint NOT NULL DEFAULT 0,
    -- The number of positions whose events were deleted once every group that had to handle them had done so. A
    -- recovery adds the positions that it finds nowhere.
    deleted_count bigint NOT NULL DEFAULT 0,
    -- The magnitude of the number of hot events. Every statement that changes the number writes the magnitude, too: as
    -- a generated column it was planned anew with every publish, and took a tenth of what Postgres did for one.
    hot_magnitude integer NOT NULL DEFAULT 0,
    -- Sums over the log's archives.
    archived_count bigint NOT NULL DEFAULT 0,
    archived_json_bytes bigint NOT NULL DEFAULT 0,
    archived_object_bytes bigint NOT NULL DEFAULT 0,
    -- No archived event has a higher position: a read that starts behind it does not look at archives.
    archived_to bigint NOT NULL DEFAULT 0,
    -- Rises whenever archived events turn out to be elsewhere, or to be other ones, than the catalog said: with a
    -- restore, a repair or a recovery. Whatever a process remembers of archived events holds while the epoch stays the
    -- same.
    catalog_epoch bigint NOT NULL DEFAULT 0,
    -- Rises with every edit, and numbers it. An archive is given up if an event of the log was edited while the archive
    -- was written.
    edit_counter bigint NOT NULL DEFAULT 0,
    -- A log has one writer of archives at a time, the lease holder. The epoch rises whenever the lease is taken, and
    -- every transaction that publishes an archive checks it: a writer that has lost its lease publishes nothing.
    lease_holder uuid,
    lease_expires_at timestamptz,
    lease_epoch bigint NOT NULL DEFAULT 0,
    CONSTRAINT logs_pkey PRIMARY KEY (id),
    CONSTRAINT logs_tenant_topic_key UNIQUE (tenant, topic)
) WITH (
    -- Every publish updates its log's row: room on the page keeps those updates out of the indexes (HOT).
    fillfactor = 50
);

-- An archiver finds the logs that have enough hot events for a batch without a look at the others. The magnitude
-- changes only when the number of hot events doubles or halves, so that most publishes stay out of this index, too.
CREATE INDEX logs_hot_magnitude_index ON logs (hot_magnitude);

CREATE TABLE events (
    log_id bigint NOT NULL,
    position bigint NOT NULL,
    -- Nanoseconds since the Unix epoch: a timestamptz would keep microseconds only.
    raised_at bigint NOT NULL,
    deployment_id bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    correlation_id text NOT NULL,
    causation_id text NOT NULL,
    user_id text NOT NULL,
    -- The JSON text as it came, without its white space. It is not jsonb, which would reorder keys and refuse \u0000.
    payload text NOT NULL,
    -- The personal fields of the payload, as JSON: the name of a field → its GDPR id, the default that a reader sees
    -- once the field is invalidated, and whether it is. Null if the payload has none.
    gdpr text,
    -- A restored event is not archived again before this moment. Null for all others.
    held_until timestamptz,
    CONSTRAINT events_pkey PRIMARY KEY (log_id, position),
    CONSTRAINT events_id_key UNIQUE (log_id, id)
) WITH (
    -- Archived rows leave by the hundred thousand. Vacuum would come too late for their space to be used again with the
    -- default of 20 %.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1
);

CREATE INDEX events_stream_index ON events (log_id, stream, position);
CREATE INDEX events_type_index ON events (log_id, type, position);

-- Waiting for consistency asks for the events of one correlation.
CREATE INDEX events_correlation_index ON events (log_id, correlation_id) WHERE correlation_id <> '';

-- The positions of a log's oldest events are in this index, so that choosing a batch mostly reads no rows. Held events
-- have an index of their own: choosing a batch costs the same however many events are held.
CREATE INDEX events_age_index ON events (log_id, raised_at, position) WHERE held_until IS NULL;
CREATE INDEX events_held_index ON events (log_id, held_until, raised_at) WHERE held_until IS NOT NULL;

-- Returns the GDPR ids of the fields that still show their values. An invalidation finds its events by them.
CREATE FUNCTION gdpr_ids(gdpr text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT array_agg(field.value ->> 'id')
    FROM json_each(gdpr::json) AS field
    WHERE NOT (field.value ->> 'is_invalidated')::boolean
);

CREATE INDEX events_gdpr_ids_index ON events USING gin (gdpr_ids(gdpr)) WHERE gdpr IS NOT NULL;

-- ANALYZE runs as often as a tenth of the table has changed. It kept a core busy for a third of a second each time
-- while it collected statistics of long columns, which no plan depends on, and of 30,000 rows for the others. The long
-- columns have no statistics now, and 3,000 rows are enough for the others.
ALTER TABLE events
    ALTER COLUMN log_id SET STATISTICS 10,
    ALTER COLUMN position SET STATISTICS 10,
    ALTER COLUMN raised_at SET STATISTICS 10,
    ALTER COLUMN deployment_id SET STATISTICS 0,
    ALTER COLUMN id SET STATISTICS 0,
    ALTER COLUMN stream SET STATISTICS 10,
    ALTER COLUMN type SET STATISTICS 10,
    ALTER COLUMN reason SET STATISTICS 0,
    ALTER COLUMN correlation_id SET STATISTICS 10,
    ALTER COLUMN causation_id SET STATISTICS 0,
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN payload SET STATISTICS 0,
    ALTER COLUMN gdpr SET STATISTICS 0,
    ALTER COLUMN held_until SET STATISTICS 10;
ALTER INDEX events_gdpr_ids_index ALTER COLUMN 1 SET STATISTICS 0;

-- A snapshot stands for a stream's events up to and including one of them, and bears the position of that event. The
-- events stay where they are. A snapshot is no event of its log: it takes no position, is never archived, and comes up
-- in reads of its stream only.
CREATE TABLE snapshots (
    log_id bigint NOT NULL,
    position bigint NOT NULL,
    raised_at bigint NOT NULL,
    deployment_id bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    correlation_id text NOT NULL,
    causation_id text NOT NULL,
    user_id text NOT NULL,
    payload text NOT NULL,
    gdpr text,
    CONSTRAINT snapshots_pkey PRIMARY KEY (log_id, id)
);

CREATE INDEX snapshots_stream_index ON snapshots (log_id, stream, position);
CREATE INDEX snapshots_gdpr_ids_index ON snapshots USING gin (gdpr_ids(gdpr)) WHERE gdpr IS NOT NULL;

-- The ids of events that were deleted because they were consumed, for a minute. A publisher that missed the reply to
-- its publish repeats it for some seconds, and is not to publish the event a second time.
CREATE TABLE consumed_ids (
    log_id bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    consumed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT consumed_ids_pkey PRIMARY KEY (log_id, id)
);

CREATE INDEX consumed_ids_age_index ON consumed_ids (log_id, consumed_at);
