-- Versions of models get stages, policies, needs, and a history.

ALTER TABLE models
    ADD COLUMN adapter    text NOT NULL DEFAULT '',
    ADD COLUMN gpu_class  text NOT NULL DEFAULT '',
    ADD COLUMN memory_mib integer NOT NULL DEFAULT 0 CHECK (memory_mib >= 0),
    ADD COLUMN policy     jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN origin     text NOT NULL DEFAULT 'config' CHECK (origin IN ('config', 'operator')),
    ADD COLUMN stage      text NOT NULL DEFAULT 'stable'
        CHECK (stage IN ('registered', 'canary', 'stable', 'retired')),
    ADD COLUMN stage_at   timestamptz NOT NULL DEFAULT now();
UPDATE models SET stage_at = created_at;
COMMENT ON TABLE models IS 'The catalog: which versions there are, and what may be done with them.';
COMMENT ON COLUMN models.origin IS 'One of the configuration is offered only while that lists it.';
COMMENT ON COLUMN models.stage_at IS 'The current version of a name is the one that became stable last.';
CREATE UNIQUE INDEX models_canary ON models (name) WHERE stage = 'canary';

CREATE TABLE model_changes (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    text NOT NULL,
    version text NOT NULL,
    what    text NOT NULL
        CHECK (what IN ('registered', 'changed', 'promoted', 'rolled_back', 'retired')),
    before  text NOT NULL,
    after   text NOT NULL,
    at      timestamptz NOT NULL,
    by      text NOT NULL,
    note    text NOT NULL DEFAULT ''
);
COMMENT ON TABLE model_changes IS 'What was done with each version, and by whom; only ever added to.';
CREATE INDEX model_changes_name ON model_changes (name, number);
INSERT INTO model_changes (name, version, what, before, after, at, by)
SELECT name, version, 'registered', '', stage, stage_at, 'an earlier release'
FROM models ORDER BY created_at, name, version;
