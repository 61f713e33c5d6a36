ALTER TABLE topics ADD COLUMN deleted_count bigint NOT NULL DEFAULT 0;
