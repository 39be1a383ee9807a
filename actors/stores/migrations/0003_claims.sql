-- Who may move a running job: whoever was given it last, or led to it last.

ALTER TABLE jobs ADD COLUMN claim bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN jobs.claim IS 'Drawn by the last asker who was given the job or led to it; only who holds it may move the job.';
