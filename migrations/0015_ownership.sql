-- Whose the bucket is. The marker in the bucket bears the newest claim of it; here are all that this database has made, or
-- the one that it is a copy of. A claim that is in the marker and not in here was made by another one.

CREATE TABLE claims (
    epoch bigint NOT NULL,
    token uuid NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT claims_pkey PRIMARY KEY (epoch)
);

-- What a copy in another cluster has not got; NULL where this role may not know it.
CREATE FUNCTION cluster_identifier() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT system_identifier FROM pg_catalog.pg_control_system());
EXCEPTION
    WHEN insufficient_privilege OR undefined_function THEN
        RETURN NULL;
END
$$;
