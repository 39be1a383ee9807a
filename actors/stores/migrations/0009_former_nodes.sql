-- A worker of another node settles what is with its node, or was: so that no other one does.

ALTER TABLE jobs ADD COLUMN former_nodes text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN jobs.former_nodes IS 'Whose workers had it under an earlier fence, each once.';
