-- Groups: how far each one got, and which process delivers to it.
--
-- A group gets every event of the logs that one of its subscribers subscribes to, once in normal mode and once in
-- parallel mode, and each log and mode by itself: how far the group got there is its progress. One replica at a time
-- delivers a progress, the owner. The replica that takes a progress over raises its epoch, and every statement that
-- writes a progress checks owner and epoch: a replica that has lost a progress writes nothing of it.

-- Processes with subscribers, one row each, renewed about every second. A replica whose row has expired has lost what
-- it owns.
CREATE TABLE replicas (
    id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The groups that have subscribers there, by mode: another replica can hand over what its own subscribers refuse.
    group_names text[] COLLATE "C" NOT NULL,
    parallel_group_names text[] COLLATE "C" NOT NULL,
    CONSTRAINT replicas_pkey PRIMARY KEY (id)
);

CREATE TABLE group_progress (
    group_name text COLLATE "C" NOT NULL,
    is_parallel boolean NOT NULL,
    log_id bigint NOT NULL,
    -- The watermark: the group has handled everything up to here.
    position bigint NOT NULL DEFAULT 0,
    -- The positions behind the watermark that are handled, too. Empty in normal mode.
    handled bigint[] NOT NULL DEFAULT '{}',
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    -- The event that made the last owner hand the progress over; 0 if none did. Its counts outlive the subscribers that
    -- refused it.
    refused_position bigint NOT NULL DEFAULT 0,
    refused_retry_number bigint NOT NULL DEFAULT 0,
    refused_rounds bigint NOT NULL DEFAULT 0,
    -- The number of connections in a row that ended their stream as the event came: clients may be unable to receive
    -- it.
    refused_resets bigint NOT NULL DEFAULT 0,
    -- The replica that is not to take the progress again, and until when.
    refused_by uuid,
    refused_until timestamptz,
    CONSTRAINT group_progress_pkey PRIMARY KEY (group_name, is_parallel, log_id)
) WITH (
    -- Every handled event updates its row: room on the page keeps those updates out of the indexes (HOT).
    fillfactor = 50
);

CREATE INDEX group_progress_owner_index ON group_progress (owner) WHERE owner IS NOT NULL;
CREATE INDEX group_progress_log_index ON group_progress (log_id, is_parallel);

-- Events that a group could not handle, and that it has passed. An operator reads the list and sends them again.
CREATE TABLE erroneous_events (
    log_id bigint NOT NULL,
    is_parallel boolean NOT NULL,
    position bigint NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    error text NOT NULL,
    retry_number bigint NOT NULL,
    CONSTRAINT erroneous_events_pkey PRIMARY KEY (log_id, is_parallel, position, group_name)
);

-- Events that were taken off that list, and are on their way to the group again.
CREATE TABLE resends (
    log_id bigint NOT NULL,
    is_parallel boolean NOT NULL,
    position bigint NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    retry_number bigint NOT NULL,
    CONSTRAINT resends_pkey PRIMARY KEY (log_id, is_parallel, group_name, position)
);

-- Broadcasts on their way to other replicas, because a notification is too small for them. The table is unlogged:
-- nobody needs a broadcast afterwards.
CREATE UNLOGGED TABLE broadcasts (
    id uuid NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    events text NOT NULL,
    CONSTRAINT broadcasts_pkey PRIMARY KEY (id)
);
