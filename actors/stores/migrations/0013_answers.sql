-- Finished answers of requests whose client gave an idempotency key, so that whoever asks again is
-- told the same, whichever processes have died meanwhile.

CREATE TABLE answers (
    job_id     uuid PRIMARY KEY,
    tenant_id  text NOT NULL,
    endpoint   text NOT NULL,
    bytes      bytea NOT NULL CHECK (bytes <> ''),
    size       integer NOT NULL CHECK (size > 0),
    kept_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE answers IS 'The answers of completed jobs, each until it expires, and of a tenant the newest within a bound of bytes.';
COMMENT ON COLUMN answers.bytes IS 'As actors/core/kept_answer.py packs them.';
COMMENT ON COLUMN answers.size IS 'The length of bytes, here so that an index has it.';
-- They are compressed already.
ALTER TABLE answers ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE INDEX answers_expires_at ON answers (expires_at);
-- Sums up what a tenant has from the newest on, and reads no row for it.
CREATE INDEX answers_tenant_id ON answers (tenant_id, kept_at DESC, job_id) INCLUDE (size);
