-- Snapshots. One stands for a stream's events up to and including the position of the last of them, which stay where
-- they are. It is no event of its log: it has no position of its own, and comes up in reads of its stream only.

CREATE TABLE snapshots (
    topic_id bigint NOT NULL,
    -- Of the last event that it stands for.
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
    CONSTRAINT snapshots_pkey PRIMARY KEY (topic_id, id)
);

CREATE INDEX snapshots_stream_index ON snapshots (topic_id, stream, position);
