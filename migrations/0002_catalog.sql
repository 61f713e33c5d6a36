-- The catalog: which archive holds which events, and who may write archives.
--
-- An archive is one object on S3 with one batch of a log's events, and its row here. The object is a sequence of gzip
-- members; a member is the unit that a reader fetches and decodes. An archive run takes these steps, each of which may
-- be the last one before the process dies:
--
--   1. Claim. Take the log's lease, choose a batch of old events, and write an intent.
--   2. Upload the object.
--   3. Read the object back, and write its lookup pages (see 0003_lookups.sql) on the way.
--   4. Commit. One transaction deletes the rows of the events, inserts the archive and its members, and deletes the
--      intent.
--
-- So an event is in one place at every moment. An intent without a live lease tells the next sweep what to settle.
-- Members and lookup pages may be written before their archive is; readers find them through the archive's row only.
--
-- An edit of archived events (see 0004_ledger.sql) leads to a rewrite: the same archive gets a new object of the next
-- generation, in the old one's place. A restore goes the other way, and turns archived events into rows again.

CREATE TABLE archives (
    log_id bigint NOT NULL,
    id uuid NOT NULL,
    -- 1 for the object as it was first written. Each rewrite adds 1.
    generation bigint NOT NULL,
    -- Stands in the object's metadata, too. A writer that lost the reply to its upload finds out there whether the
    -- object is its own.
    write_id uuid NOT NULL,
    etag text NOT NULL,
    -- SHA-256 of the whole object.
    digest bytea NOT NULL,
    -- Archives may overlap, and hot events may lie between their positions: imports bring old and young events in any
    -- order.
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    count bigint NOT NULL,
    -- Nanoseconds since the Unix epoch.
    raised_at_min bigint NOT NULL,
    raised_at_max bigint NOT NULL,
    json_bytes bigint NOT NULL,
    object_bytes bigint NOT NULL,
    -- The types of its events, and the number of events of each. A page of some types passes over whole archives by
    -- counting.
    types text[] NOT NULL,
    type_counts bigint[] NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    rewritten_at timestamptz,
    -- The end of the last scrub that read the whole archive.
    scrubbed_at timestamptz,
    -- Set while a scrub reads the archive, so that other processes take the next one. If it was set long ago, the scrub
    -- was broken off with its process.
    scrub_begun_at timestamptz,
    CONSTRAINT archives_pkey PRIMARY KEY (log_id, id),
    CONSTRAINT archives_range_check CHECK (first_position <= last_position AND count > 0)
);

-- A page needs the archives that begin behind a position, and those that reach across it. Archives of about one length
-- that reach across a position begin close to it, so a few rows of each magnitude are all that is looked at.
CREATE INDEX archives_first_position_index ON archives (log_id, first_position, id);
CREATE INDEX archives_reach_index ON archives (log_id, magnitude(last_position - first_position), first_position);

-- The next archive to scrub is the one whose last scrub is the longest ago.
CREATE INDEX archives_scrubbed_at_index ON archives (scrubbed_at NULLS FIRST, log_id, id);

CREATE TABLE members (
    log_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    generation bigint NOT NULL,
    -- Counts from 0, in the order of the object.
    member integer NOT NULL,
    byte_start bigint NOT NULL,
    byte_end bigint NOT NULL,
    json_bytes bigint NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    count bigint NOT NULL,
    -- Follows the order of archives.types, and is shorter if the last types come up in later members only.
    type_counts bigint[] NOT NULL,
    CONSTRAINT members_pkey PRIMARY KEY (log_id, archive_id, generation, member)
);

-- Objects that a writer set out to write, each recorded before its first byte is sent, and objects that a restore has
-- left and that are to be deleted. The transaction that makes an archive live deletes its intent. A sweep settles every
-- intent whose writer has lost its lease.
CREATE TABLE intents (
    log_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    generation bigint NOT NULL,
    write_id uuid NOT NULL,
    -- The epoch of the writer's lease (logs.lease_epoch).
    epoch bigint NOT NULL,
    intended_at timestamptz NOT NULL DEFAULT now(),
    -- Pending edits up to this sequence are in the object.
    edit_sequence bigint NOT NULL,
    -- Known once every byte is uploaded, and recorded before the upload is completed.
    digest bytea,
    json_bytes bigint,
    object_bytes bigint,
    CONSTRAINT intents_pkey PRIMARY KEY (log_id, archive_id, generation)
);

-- The last passes of the archiver, for operators.
CREATE TABLE archive_runs (
    id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    archives bigint NOT NULL,
    events bigint NOT NULL,
    error text,
    CONSTRAINT archive_runs_pkey PRIMARY KEY (id)
);

-- Trouble with one object: S3 refuses it, it is damaged, or it may not be deleted. The process that meets trouble
-- writes it down here and goes on with everything else. Background jobs ask for the object again ever more rarely, and
-- operators see what is left.
CREATE TABLE troubles (
    log_id bigint NOT NULL,
    -- The catalog or an intent knows the archive, except that both may not if the kind is 'recover'.
    archive_id uuid NOT NULL,
    -- The operation that was not possible: 'read', 'delete', or 'recover' if a recovery could not take the object over.
    kind text NOT NULL,
    why text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts bigint NOT NULL DEFAULT 1,
    retry_at timestamptz NOT NULL,
    CONSTRAINT troubles_pkey PRIMARY KEY (log_id, archive_id, kind)
);

-- One row: the identity of this database, which the marker in its bucket bears, too.
CREATE TABLE deployment (
    only_row boolean NOT NULL DEFAULT true,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The key of every hash in lookup_pages. Ids and streams may be personal; without the key nobody can guess them
    -- from their hashes.
    hash_key uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT deployment_pkey PRIMARY KEY (only_row),
    CONSTRAINT deployment_only_row_check CHECK (only_row)
);
INSERT INTO deployment DEFAULT VALUES;

-- A bucket has one owner, whose newest claim stands in the bucket's marker. This table has all claims that this
-- database has made, and, if it is a copy, those that the original had made by then. Another database made the claim in
-- the marker if this table does not have it.
CREATE TABLE claims (
    epoch bigint NOT NULL,
    token uuid NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT claims_pkey PRIMARY KEY (epoch)
);

-- Returns the identifier of this database's cluster, which a copy in another cluster does not have. Null if the role
-- may not know it.
CREATE FUNCTION cluster_identifier() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT system_identifier FROM pg_catalog.pg_control_system());
EXCEPTION
    WHEN insufficient_privilege OR undefined_function THEN
        RETURN NULL;
END
$$;
