-- The whole schema as it stands, for readers. tests/integration/test_stores_database.py proves
-- that it equals what the migrations make; nothing runs it.

CREATE TABLE tenants (
    id                  text PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$'),
    requests_per_minute integer CHECK (requests_per_minute > 0),
    tokens_per_minute   integer CHECK (tokens_per_minute > 0),
    max_concurrency     integer CHECK (max_concurrency > 0),
    created_at          timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tenants IS 'Who is billed. A limit that is null is the default of the configuration.';

CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants (id),
    hash       bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    prefix     text NOT NULL,
    name       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    operator   boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE api_keys IS 'SHA-256 of each key; the key itself is shown once and stored nowhere.';
CREATE INDEX api_keys_tenant_id ON api_keys (tenant_id);

CREATE TABLE models (
    name       text NOT NULL CHECK (name <> ''),
    version    text NOT NULL CHECK (version <> ''),
    engine     text NOT NULL,
    source     text NOT NULL DEFAULT '',
    context    integer NOT NULL CHECK (context > 0),
    dtype      text NOT NULL DEFAULT 'float32',
    created_at timestamptz NOT NULL DEFAULT now(),
    adapter    text NOT NULL DEFAULT '',
    gpu_class  text NOT NULL DEFAULT '',
    memory_mib integer NOT NULL DEFAULT 0 CHECK (memory_mib >= 0),
    policy     jsonb NOT NULL DEFAULT '{}',
    origin     text NOT NULL DEFAULT 'config' CHECK (origin IN ('config', 'operator')),
    stage      text NOT NULL DEFAULT 'stable'
        CHECK (stage IN ('registered', 'canary', 'stable', 'retired')),
    stage_at   timestamptz NOT NULL DEFAULT now(),
    special_tokens_in_text boolean NOT NULL DEFAULT false,
    PRIMARY KEY (name, version)
);
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

-- A foreign key to tenants would lock the tenant's row once a request, so there is none.
-- No index covers a column that settling changes, and pages keep a fifth of their room free:
-- so settling rewrites a row within its page and touches no index (a HOT update).
CREATE TABLE jobs (
    id                uuid PRIMARY KEY,
    tenant_id         text NOT NULL,
    retry_token       text NOT NULL,
    fingerprint       bytea NOT NULL,
    model_ref         text NOT NULL,
    state             text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'settled')),
    outcome           text CHECK (outcome IN ('completed', 'cancelled', 'failed', 'expired')),
    attempt           integer NOT NULL DEFAULT 1,
    fence             bigint NOT NULL DEFAULT 1,
    worker_id         text NOT NULL,
    worker_address    text NOT NULL,
    prompt_tokens     integer NOT NULL DEFAULT 0,
    completion_tokens integer NOT NULL DEFAULT 0,
    finish            text NOT NULL DEFAULT '',
    error_code        text NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL DEFAULT now(),
    settled_at        timestamptz,
    claim             bigint NOT NULL DEFAULT 0,
    former_nodes      text[] NOT NULL DEFAULT '{}',
    UNIQUE (tenant_id, retry_token),
    CHECK ((state = 'settled') = (outcome IS NOT NULL)),
    CHECK ((state = 'settled') = (settled_at IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE jobs IS 'One row per (tenant, retry token). Its state and fence decide who may settle.';
COMMENT ON COLUMN jobs.attempt IS 'The attempt of the gateway that the current lease was given for.';
COMMENT ON COLUMN jobs.fence IS 'Counts the leases given; only the latest may settle.';
COMMENT ON COLUMN jobs.claim IS 'Drawn by the last asker who was given the job or led to it; only who holds it may move the job.';
COMMENT ON COLUMN jobs.former_nodes IS 'Whose workers had it under an earlier fence, each once.';

CREATE TABLE leases (
    job_id         uuid PRIMARY KEY,
    worker_id      text NOT NULL,
    worker_address text NOT NULL,
    fence          bigint NOT NULL,
    expires_at     timestamptz NOT NULL
) WITH (
    -- They come and go with every request: vacuumed by their number, not by their share.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
COMMENT ON TABLE leases IS 'One row per running job, for the sweep of those that nobody settles.';
CREATE INDEX leases_expires_at ON leases (expires_at);

CREATE TABLE ledger (
    job_id            uuid PRIMARY KEY,
    tenant_id         text NOT NULL,
    model_ref         text NOT NULL,
    prompt_tokens     integer NOT NULL,
    completion_tokens integer NOT NULL,
    at                timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ledger IS 'What is billed: one row per completed or cancelled job.';
CREATE INDEX ledger_at ON ledger USING brin (at);

CREATE TABLE breakers (
    worker_id text NOT NULL,
    model_ref text NOT NULL,
    mode      text NOT NULL CHECK (mode IN ('automatic', 'forced_open', 'disabled')),
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (worker_id, model_ref)
);
COMMENT ON TABLE breakers IS 'What an operator has said; an empty model_ref stands for all models.';

-- Whoever caches keys, limits or the catalog listens, whatever changed the row.
CREATE FUNCTION tell_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tether_keys', encode(OLD.hash, 'hex'));
    RETURN NULL;
END $$;
CREATE TRIGGER api_keys_changed AFTER UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tell_key();

CREATE FUNCTION tell_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tether_tenants', OLD.id);
    RETURN NULL;
END $$;
CREATE TRIGGER tenants_changed AFTER UPDATE OR DELETE ON tenants
    FOR EACH ROW EXECUTE FUNCTION tell_tenant();

CREATE FUNCTION tell_models() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tether_models', '');
    RETURN NULL;
END $$;
CREATE TRIGGER models_changed AFTER INSERT OR UPDATE OR DELETE ON models
    FOR EACH STATEMENT EXECUTE FUNCTION tell_models();
