-- The catalog: which archive holds what. An archive is one object with one batch of events; a member is one gzip
-- member of it, the unit that is fetched and decoded. Rows of members and lookup pages may be there before their
-- archive is (an intent) and are read through it only.

CREATE TABLE archives (
    topic_id bigint NOT NULL,
    id uuid NOT NULL,
    -- 1 for the object as first written; one more with every rewrite in place.
    generation bigint NOT NULL,
    -- What the object's metadata bears, so that a lost reply can be looked up.
    write_id uuid NOT NULL,
    etag text NOT NULL,
    -- SHA-256 of the whole object.
    digest bytea NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    count bigint NOT NULL,
    -- Nanoseconds since the Unix epoch.
    raised_at_min bigint NOT NULL,
    raised_at_max bigint NOT NULL,
    json_bytes bigint NOT NULL,
    object_bytes bigint NOT NULL,
    types text[] NOT NULL,
    type_counts bigint[] NOT NULL,
    -- How many runs of lookup pages it has.
    lookup_runs integer NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    rewritten_at timestamptz,
    CONSTRAINT archives_pkey PRIMARY KEY (topic_id, id),
    CONSTRAINT archives_range_check CHECK (first_position <= last_position AND count > 0)
);

CREATE INDEX archives_last_position_index ON archives (topic_id, last_position);

CREATE TABLE members (
    topic_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    generation bigint NOT NULL,
    member integer NOT NULL,
    byte_start bigint NOT NULL,
    byte_end bigint NOT NULL,
    json_bytes bigint NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    count bigint NOT NULL,
    -- In the order of archives.types; shorter where the types that follow came up in later members only.
    type_counts bigint[] NOT NULL,
    CONSTRAINT members_pkey PRIMARY KEY (topic_id, archive_id, generation, member)
);

-- Sorted runs of keyed hashes, cut into pages: event id → member (kind 1), stream → members (kind 2). A page is found
-- by the greatest first_hash that is not above the one looked for.
CREATE TABLE lookup_pages (
    topic_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    kind smallint NOT NULL,
    run integer NOT NULL,
    first_hash bigint NOT NULL,
    entries bytea NOT NULL,
    CONSTRAINT lookup_pages_pkey PRIMARY KEY (topic_id, archive_id, kind, run, first_hash)
);
-- Hashes do not compress, and a page fits its row.
ALTER TABLE lookup_pages ALTER COLUMN entries SET STORAGE EXTERNAL;

-- Written before an object is: what is found here without its archive having taken it over is settled by a sweep.
CREATE TABLE intents (
    topic_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    generation bigint NOT NULL,
    write_id uuid NOT NULL,
    -- The lease under which it was written.
    epoch bigint NOT NULL,
    intended_at timestamptz NOT NULL DEFAULT now(),
    -- Pending edits up to this sequence are in the object.
    edit_sequence bigint NOT NULL,
    -- Known once every byte is uploaded, and recorded before the upload is completed.
    digest bytea,
    json_bytes bigint,
    object_bytes bigint,
    CONSTRAINT intents_pkey PRIMARY KEY (topic_id, archive_id, generation)
);

-- What one pass of the archiver did, for operators.
CREATE TABLE archive_runs (
    id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    archives bigint NOT NULL,
    events bigint NOT NULL,
    error text,
    CONSTRAINT archive_runs_pkey PRIMARY KEY (id)
);

-- The key of every hash in lookup_pages: ids and streams may be personal, and without the key they cannot be guessed
-- from their hashes. One row.
CREATE TABLE deployment (
    only_row boolean NOT NULL DEFAULT true,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    hash_key uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT deployment_pkey PRIMARY KEY (only_row),
    CONSTRAINT deployment_only_row_check CHECK (only_row)
);
INSERT INTO deployment DEFAULT VALUES;
