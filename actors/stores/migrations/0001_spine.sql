-- The spine: tenants and their keys, the catalog, jobs, leases, and the usage ledger.

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
    revoked_at timestamptz
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
    PRIMARY KEY (name, version)
);
COMMENT ON TABLE models IS 'The catalog: what may be asked for.';

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
    UNIQUE (tenant_id, retry_token),
    CHECK ((state = 'settled') = (outcome IS NOT NULL)),
    CHECK ((state = 'settled') = (settled_at IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE jobs IS 'One row per (tenant, retry token). Its state and fence decide who may settle.';
COMMENT ON COLUMN jobs.attempt IS 'The attempt of the gateway that the current lease was given for.';
COMMENT ON COLUMN jobs.fence IS 'Counts the leases given; only the latest may settle.';

CREATE TABLE leases (
    job_id         uuid PRIMARY KEY,
    worker_id      text NOT NULL,
    worker_address text NOT NULL,
    fence          bigint NOT NULL,
    expires_at     timestamptz NOT NULL
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
