-- An event that the clients of a group cannot receive: so many connections in a row ended their stream as it came. It is
-- beside how often the same event was refused, since both are to outlive the subscribers.
ALTER TABLE group_progress ADD COLUMN refused_resets bigint NOT NULL DEFAULT 0;
