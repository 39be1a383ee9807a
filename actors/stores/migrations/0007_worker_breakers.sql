-- A word about all of a worker has an empty model_ref, and holds for models that it has yet to load.
-- So one of its models may have to be automatic by name.

ALTER TABLE breakers DROP CONSTRAINT breakers_mode_check;
ALTER TABLE breakers ADD CONSTRAINT breakers_mode_check
    CHECK (mode IN ('automatic', 'forced_open', 'disabled'));
COMMENT ON TABLE breakers IS 'What an operator has said; an empty model_ref stands for all models.';
