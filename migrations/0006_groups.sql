-- Subscriptions. A group goes through every log that somebody of it subscribes to, once in normal mode and once in
-- parallel mode, each by itself: how far it got is its progress. One replica delivers a progress at a time, the owner;
-- whoever takes it over raises the epoch, and whatever is written of it checks both.

-- Processes with subscribers. One row each, renewed about every second: one that is not has lost what it owns.
CREATE TABLE replicas (
    id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Groups with subscribers there, so that another replica can hand over what its own subscribers refuse.
    group_names text[] COLLATE "C" NOT NULL,
    parallel_group_names text[] COLLATE "C" NOT NULL,
    CONSTRAINT replicas_pkey PRIMARY KEY (id)
);

CREATE TABLE group_progress (
    group_name text COLLATE "C" NOT NULL,
    is_parallel boolean NOT NULL,
    topic_id bigint NOT NULL,
    -- Everything up to here is handled.
    position bigint NOT NULL DEFAULT 0,
    -- What else is, behind it: empty in normal mode.
    handled bigint[] NOT NULL DEFAULT '{}',
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    -- The event that made its last owner hand it over, how often it was refused, and who is not to take it until when.
    refused_position bigint NOT NULL DEFAULT 0,
    refused_retry_number bigint NOT NULL DEFAULT 0,
    refused_rounds bigint NOT NULL DEFAULT 0,
    refused_by uuid,
    refused_until timestamptz,
    CONSTRAINT group_progress_pkey PRIMARY KEY (group_name, is_parallel, topic_id)
) WITH (
    -- Every handled event updates its row: room on the page keeps those updates out of the indexes (HOT).
    fillfactor = 50
);

CREATE INDEX group_progress_owner_index ON group_progress (owner) WHERE owner IS NOT NULL;
CREATE INDEX group_progress_topic_index ON group_progress (topic_id, is_parallel);

-- What a group could not handle. The group has gone on; an operator reads the list, and sends again.
CREATE TABLE erroneous_events (
    topic_id bigint NOT NULL,
    is_parallel boolean NOT NULL,
    position bigint NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    error text NOT NULL,
    retry_number bigint NOT NULL,
    CONSTRAINT erroneous_events_pkey PRIMARY KEY (topic_id, is_parallel, position, group_name)
);

-- What was taken off that list, and is on its way to the group again.
CREATE TABLE resends (
    topic_id bigint NOT NULL,
    is_parallel boolean NOT NULL,
    position bigint NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    retry_number bigint NOT NULL,
    CONSTRAINT resends_pkey PRIMARY KEY (topic_id, is_parallel, group_name, position)
);

-- Broadcasts on their way to other replicas: a notification is too small for them. Nobody needs them afterwards.
CREATE UNLOGGED TABLE broadcasts (
    id uuid NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    events text NOT NULL,
    CONSTRAINT broadcasts_pkey PRIMARY KEY (id)
);

-- Waiting for consistency asks for the events of one correlation.
CREATE INDEX events_correlation_index ON events (topic_id, correlation_id) WHERE correlation_id <> '';
