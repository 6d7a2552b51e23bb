-- Business time: what an advance brought about.

-- Where the last advance came from, and when it began in machine time: what happened since is what it brought about.
ALTER TABLE test_clocks
    ADD COLUMN from_time timestamptz,
    ADD COLUMN advance_began_at timestamptz;
