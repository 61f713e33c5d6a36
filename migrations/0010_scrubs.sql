-- A turn counts once the archive was read; until then whoever has it says so, and others take the next one. A turn that
-- was begun long ago and never ended was broken off with its process.
ALTER TABLE archives ADD COLUMN scrub_begun_at timestamptz;
