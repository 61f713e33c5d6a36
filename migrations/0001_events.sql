-- Hot events. One log is one (tenant, topic); every key starts with its topic id, so a log is one range of each
-- index, and one shard where the database is a distributed one.

CREATE TABLE topics (
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    -- The position of the newest event; positions count from 1 without gaps.
    head_position bigint NOT NULL DEFAULT 0,
    archived_count bigint NOT NULL DEFAULT 0,
    archived_json_bytes bigint NOT NULL DEFAULT 0,
    archived_object_bytes bigint NOT NULL DEFAULT 0,
    -- Rises with every edit: an archive whose rows were edited while it was written is not taken over.
    edit_counter bigint NOT NULL DEFAULT 0,
    -- One writer of archives a topic: whoever holds the lease. The epoch rises whenever it is taken, and every
    -- transaction that publishes an archive checks it.
    lease_holder uuid,
    lease_expires_at timestamptz,
    lease_epoch bigint NOT NULL DEFAULT 0,
    CONSTRAINT topics_pkey PRIMARY KEY (id),
    CONSTRAINT topics_tenant_topic_key UNIQUE (tenant, topic)
) WITH (
    -- Every publish updates its topic's row: room on the page keeps those updates out of the indexes (HOT).
    fillfactor = 50
);

CREATE TABLE events (
    topic_id bigint NOT NULL,
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
    -- The JSON text as it came, white space removed, not jsonb: jsonb would reorder keys and refuse \u0000.
    payload text NOT NULL,
    gdpr text,
    CONSTRAINT events_pkey PRIMARY KEY (topic_id, position),
    CONSTRAINT events_id_key UNIQUE (topic_id, id)
) WITH (
    -- Archived rows leave by the hundred thousand. With the default of 20 % vacuum would come too late for their
    -- space to be used again.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1
);

CREATE INDEX events_stream_index ON events (topic_id, stream, position);
CREATE INDEX events_type_index ON events (topic_id, type, position);
CREATE INDEX events_raised_at_index ON events (topic_id, raised_at);
