-- The schema that the migrations make. The files in migrations/ say the reasons.
--
-- A test compares this file with a migrated database, and writes it anew if it is told to: tests/integration/schema.rs.

CREATE OR REPLACE FUNCTION cluster_identifier()
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
AS $function$
BEGIN
    RETURN (SELECT system_identifier FROM pg_catalog.pg_control_system());
EXCEPTION
    WHEN insufficient_privilege OR undefined_function THEN
        RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION gdpr_ids(gdpr text)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
RETURN (SELECT array_agg((field.value ->> 'id'::text)) AS array_agg FROM json_each((gdpr_ids.gdpr)::json) field(key, value) WHERE (NOT ((field.value ->> 'is_invalidated'::text))::boolean));

CREATE OR REPLACE FUNCTION magnitude(number bigint)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE STRICT
RETURN length(ltrim(((number)::bit(64))::text, '0'::text));

CREATE TABLE archive_runs (
    id uuid NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
    archives bigint NOT NULL,
    events bigint NOT NULL,
    error text,
    CONSTRAINT archive_runs_pkey PRIMARY KEY (id)
);

CREATE TABLE archives (
    log_id bigint NOT NULL,
    id uuid NOT NULL,
    generation bigint NOT NULL,
    write_id uuid NOT NULL,
    etag text NOT NULL,
    digest bytea NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    count bigint NOT NULL,
    raised_at_min bigint NOT NULL,
    raised_at_max bigint NOT NULL,
    json_bytes bigint NOT NULL,
    object_bytes bigint NOT NULL,
    types text[] NOT NULL,
    type_counts bigint[] NOT NULL,
    archived_at timestamp with time zone NOT NULL DEFAULT now(),
    rewritten_at timestamp with time zone,
    scrubbed_at timestamp with time zone,
    scrub_begun_at timestamp with time zone,
    CONSTRAINT archives_pkey PRIMARY KEY (log_id, id),
    CONSTRAINT archives_range_check CHECK (((first_position <= last_position) AND (count > 0)))
);
CREATE INDEX archives_first_position_index ON archives USING btree (log_id, first_position, id);
CREATE INDEX archives_reach_index ON archives USING btree (log_id, magnitude((last_position - first_position)), first_position);
CREATE INDEX archives_scrubbed_at_index ON archives USING btree (scrubbed_at NULLS FIRST, log_id, id);

CREATE UNLOGGED TABLE broadcasts (
    id uuid NOT NULL,
    sent_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    events text NOT NULL,
    CONSTRAINT broadcasts_pkey PRIMARY KEY (id)
);

CREATE TABLE claims (
    epoch bigint NOT NULL,
    token uuid NOT NULL,
    claimed_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT claims_pkey PRIMARY KEY (epoch)
);

CREATE TABLE consumed_ids (
    log_id bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    "position" bigint NOT NULL,
    consumed_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT consumed_ids_pkey PRIMARY KEY (log_id, id)
);
CREATE INDEX consumed_ids_age_index ON consumed_ids USING btree (log_id, consumed_at);

CREATE TABLE deployment (
    only_row boolean NOT NULL DEFAULT true,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    hash_key uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT deployment_pkey PRIMARY KEY (only_row),
    CONSTRAINT deployment_only_row_check CHECK (only_row)
);

CREATE TABLE edits (
    id uuid NOT NULL,
    log_id bigint NOT NULL,
    sequence bigint NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    "position" bigint,
    archive_id uuid,
    changed text[] NOT NULL,
    missing text[] NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    ticket text NOT NULL,
    accepted_at timestamp with time zone NOT NULL DEFAULT now(),
    applied_at timestamp with time zone,
    purged_at timestamp with time zone,
    CONSTRAINT edits_pkey PRIMARY KEY (id)
);
CREATE INDEX edits_invalidated_index ON edits USING btree (log_id, subject) WHERE (kind = 'invalidate'::text);
CREATE INDEX edits_log_index ON edits USING btree (log_id, sequence);
CREATE INDEX edits_patched_index ON edits USING btree (log_id, "position") WHERE (kind = 'patch'::text);
CREATE INDEX edits_unpurged_index ON edits USING btree (log_id, archive_id) WHERE (purged_at IS NULL);

CREATE TABLE erroneous_events (
    log_id bigint NOT NULL,
    is_parallel boolean NOT NULL,
    "position" bigint NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    error text NOT NULL,
    retry_number bigint NOT NULL,
    CONSTRAINT erroneous_events_pkey PRIMARY KEY (log_id, is_parallel, "position", group_name)
);

CREATE TABLE events (
    log_id bigint NOT NULL,
    "position" bigint NOT NULL,
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
    held_until timestamp with time zone,
    CONSTRAINT events_pkey PRIMARY KEY (log_id, "position"),
    CONSTRAINT events_id_key UNIQUE (log_id, id)
) WITH (autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE events ALTER COLUMN log_id SET STATISTICS 10;
ALTER TABLE events ALTER COLUMN "position" SET STATISTICS 10;
ALTER TABLE events ALTER COLUMN raised_at SET STATISTICS 10;
ALTER TABLE events ALTER COLUMN deployment_id SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN id SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN stream SET STATISTICS 10;
ALTER TABLE events ALTER COLUMN type SET STATISTICS 10;
ALTER TABLE events ALTER COLUMN reason SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN correlation_id SET STATISTICS 10;
ALTER TABLE events ALTER COLUMN causation_id SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN payload SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN gdpr SET STATISTICS 0;
ALTER TABLE events ALTER COLUMN held_until SET STATISTICS 10;
CREATE INDEX events_age_index ON events USING btree (log_id, raised_at, "position") WHERE (held_until IS NULL);
CREATE INDEX events_correlation_index ON events USING btree (log_id, correlation_id) WHERE (correlation_id <> ''::text);
CREATE INDEX events_gdpr_ids_index ON events USING gin (gdpr_ids(gdpr)) WHERE (gdpr IS NOT NULL);
ALTER INDEX events_gdpr_ids_index ALTER COLUMN 1 SET STATISTICS 0;
CREATE INDEX events_held_index ON events USING btree (log_id, held_until, raised_at) WHERE (held_until IS NOT NULL);
CREATE INDEX events_stream_index ON events USING btree (log_id, stream, "position");
CREATE INDEX events_type_index ON events USING btree (log_id, type, "position");

CREATE TABLE group_progress (
    group_name text COLLATE "C" NOT NULL,
    is_parallel boolean NOT NULL,
    log_id bigint NOT NULL,
    "position" bigint NOT NULL DEFAULT 0,
    handled bigint[] NOT NULL DEFAULT '{}'::bigint[],
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    refused_position bigint NOT NULL DEFAULT 0,
    refused_retry_number bigint NOT NULL DEFAULT 0,
    refused_rounds bigint NOT NULL DEFAULT 0,
    refused_resets bigint NOT NULL DEFAULT 0,
    refused_by uuid,
    refused_until timestamp with time zone,
    CONSTRAINT group_progress_pkey PRIMARY KEY (group_name, is_parallel, log_id)
) WITH (fillfactor = 50);
CREATE INDEX group_progress_log_index ON group_progress USING btree (log_id, is_parallel);
CREATE INDEX group_progress_owner_index ON group_progress USING btree (owner) WHERE (owner IS NOT NULL);

CREATE TABLE intents (
    log_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    generation bigint NOT NULL,
    write_id uuid NOT NULL,
    epoch bigint NOT NULL,
    intended_at timestamp with time zone NOT NULL DEFAULT now(),
    edit_sequence bigint NOT NULL,
    digest bytea,
    json_bytes bigint,
    object_bytes bigint,
    CONSTRAINT intents_pkey PRIMARY KEY (log_id, archive_id, generation)
);

CREATE TABLE introduced_gdpr_ids (
    log_id bigint NOT NULL,
    gdpr_id text COLLATE "C" NOT NULL,
    archive_id uuid NOT NULL,
    "position" bigint NOT NULL,
    CONSTRAINT introduced_gdpr_ids_pkey PRIMARY KEY (log_id, gdpr_id)
);

CREATE TABLE logs (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME logs_id_seq),
    tenant text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    head_position bigint NOT NULL DEFAULT 0,
    deleted_count bigint NOT NULL DEFAULT 0,
    hot_magnitude integer NOT NULL DEFAULT 0,
    archived_count bigint NOT NULL DEFAULT 0,
    archived_json_bytes bigint NOT NULL DEFAULT 0,
    archived_object_bytes bigint NOT NULL DEFAULT 0,
    archived_to bigint NOT NULL DEFAULT 0,
    catalog_epoch bigint NOT NULL DEFAULT 0,
    edit_counter bigint NOT NULL DEFAULT 0,
    lease_holder uuid,
    lease_expires_at timestamp with time zone,
    lease_epoch bigint NOT NULL DEFAULT 0,
    CONSTRAINT logs_pkey PRIMARY KEY (id),
    CONSTRAINT logs_tenant_topic_key UNIQUE (tenant, topic)
) WITH (fillfactor = 50);
CREATE INDEX logs_hot_magnitude_index ON logs USING btree (hot_magnitude);

CREATE TABLE lookup_pages (
    log_id bigint NOT NULL,
    lookup_id uuid NOT NULL,
    kind smallint NOT NULL,
    run integer NOT NULL,
    first_hash bigint NOT NULL,
    entries bytea NOT NULL,
    CONSTRAINT lookup_pages_pkey PRIMARY KEY (log_id, lookup_id, kind, run, first_hash)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE lookup_pages ALTER COLUMN entries SET STATISTICS 0;
ALTER TABLE lookup_pages ALTER COLUMN entries SET STORAGE EXTERNAL;

CREATE TABLE lookups (
    log_id bigint NOT NULL,
    id uuid NOT NULL,
    level smallint NOT NULL,
    runs integer NOT NULL,
    archive_ids uuid[] NOT NULL,
    first_position bigint,
    last_position bigint,
    types text[],
    type_counts bigint[],
    CONSTRAINT lookups_pkey PRIMARY KEY (log_id, id)
);

CREATE TABLE members (
    log_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    generation bigint NOT NULL,
    member integer NOT NULL,
    byte_start bigint NOT NULL,
    byte_end bigint NOT NULL,
    json_bytes bigint NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    count bigint NOT NULL,
    type_counts bigint[] NOT NULL,
    CONSTRAINT members_pkey PRIMARY KEY (log_id, archive_id, generation, member)
);

CREATE TABLE pending_edits (
    log_id bigint NOT NULL,
    first_position bigint NOT NULL,
    last_position bigint NOT NULL,
    sequence bigint NOT NULL,
    edit_id uuid NOT NULL,
    archive_id uuid NOT NULL,
    change text NOT NULL,
    CONSTRAINT pending_edits_pkey PRIMARY KEY (log_id, first_position, sequence)
);
CREATE INDEX pending_edits_archive_index ON pending_edits USING btree (log_id, archive_id);

CREATE TABLE replicas (
    id uuid NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    group_names text[] COLLATE "C" NOT NULL,
    parallel_group_names text[] COLLATE "C" NOT NULL,
    CONSTRAINT replicas_pkey PRIMARY KEY (id)
);

CREATE TABLE resends (
    log_id bigint NOT NULL,
    is_parallel boolean NOT NULL,
    "position" bigint NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    retry_number bigint NOT NULL,
    CONSTRAINT resends_pkey PRIMARY KEY (log_id, is_parallel, group_name, "position")
);

CREATE TABLE snapshots (
    log_id bigint NOT NULL,
    "position" bigint NOT NULL,
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
CREATE INDEX snapshots_gdpr_ids_index ON snapshots USING gin (gdpr_ids(gdpr)) WHERE (gdpr IS NOT NULL);
CREATE INDEX snapshots_stream_index ON snapshots USING btree (log_id, stream, "position");

CREATE TABLE troubles (
    log_id bigint NOT NULL,
    archive_id uuid NOT NULL,
    kind text NOT NULL,
    why text NOT NULL,
    since timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    attempts bigint NOT NULL DEFAULT 1,
    retry_at timestamp with time zone NOT NULL,
    CONSTRAINT troubles_pkey PRIMARY KEY (log_id, archive_id, kind)
);

CREATE VIEW lookup_sums AS
 SELECT lookups.log_id,
    lookups.id,
    sums.first_position,
    sums.last_position,
    sums.types,
    sums.type_counts
   FROM (lookups
     CROSS JOIN LATERAL ( SELECT min(of_types.first_position) AS first_position,
            max(of_types.last_position) AS last_position,
            array_agg(of_types.type ORDER BY of_types.type) AS types,
            array_agg(of_types.count ORDER BY of_types.type) AS type_counts
           FROM ( SELECT held.type,
                    (sum(held.count))::bigint AS count,
                    min(archives.first_position) AS first_position,
                    max(archives.last_position) AS last_position
                   FROM (archives
                     CROSS JOIN LATERAL UNNEST(archives.types, archives.type_counts) held(type, count))
                  WHERE ((archives.log_id = lookups.log_id) AND (archives.id = ANY (lookups.archive_ids)))
                  GROUP BY held.type) of_types) sums)
  WHERE (lookups.level > 0);
