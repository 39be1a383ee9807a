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
    endpoint          text NOT NULL DEFAULT '',
    key_id            uuid,
    led               boolean NOT NULL DEFAULT false,
    began_at          timestamptz,
    price             integer,
    budgets           bigint[] NOT NULL DEFAULT '{}',
    held_micros       bigint NOT NULL DEFAULT 0 CHECK (held_micros >= 0),
    held_tokens       bigint NOT NULL DEFAULT 0 CHECK (held_tokens >= 0),
    entries           integer NOT NULL DEFAULT 0,
    billed_prompt     integer NOT NULL DEFAULT 0,
    billed_cached     integer NOT NULL DEFAULT 0,
    billed_reasoning  integer NOT NULL DEFAULT 0,
    billed_output     integer NOT NULL DEFAULT 0,
    billed_micros     bigint NOT NULL DEFAULT 0,
    UNIQUE (tenant_id, endpoint, retry_token),
    CHECK ((state = 'settled') = (outcome IS NOT NULL)),
    CHECK ((state = 'settled') = (settled_at IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE jobs IS 'One row per (tenant, endpoint, retry token), under an id that never changes. Its state and fence decide who may settle.';
COMMENT ON COLUMN jobs.attempt IS 'The attempt of the gateway that the current lease was given for.';
COMMENT ON COLUMN jobs.fence IS 'Counts the leases given; only the latest may settle.';
COMMENT ON COLUMN jobs.claim IS 'Drawn by the last asker who was given the job or led to it; only who holds it may move the job.';
COMMENT ON COLUMN jobs.endpoint IS 'Which of the API it was asked at: chat, completions, embeddings, infer; empty in rows of earlier releases.';
COMMENT ON COLUMN jobs.key_id IS 'Of the API key that asked; null: unknown.';
COMMENT ON COLUMN jobs.led IS 'The claim is that of an asker who was led to the job; else of one to whom it was given.';
COMMENT ON COLUMN jobs.began_at IS 'When the current attempt was given away; null: with the job.';
COMMENT ON COLUMN jobs.price IS 'The version in force when the job was reserved; null: no price.';
COMMENT ON COLUMN jobs.budgets IS 'The budget_periods, sorted, on each of which held_micros or held_tokens are reserved while the job runs.';
COMMENT ON COLUMN jobs.entries IS 'How many entries the ledger has of it; their sums are the columns billed_….';

CREATE TABLE attempts (
    job_id         uuid NOT NULL,
    number         bigint NOT NULL,
    worker_id      text NOT NULL,
    worker_address text NOT NULL,
    node           text NOT NULL,
    emitted        integer NOT NULL DEFAULT 0,
    ended          text NOT NULL DEFAULT '',
    began_at       timestamptz NOT NULL,
    ended_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, number)
);
COMMENT ON TABLE attempts IS 'The attempts that jobs have left behind: written when a job is given away anew. The current one stands in jobs.';
COMMENT ON COLUMN attempts.number IS 'The fence under which it was given.';
COMMENT ON COLUMN attempts.emitted IS 'Output tokens as its worker has said at the last renewal.';
COMMENT ON COLUMN attempts.ended IS 'The outcome that the job had then; moved: it ran, and was given to another worker.';

CREATE VIEW job_attempts AS
SELECT job_id, number, worker_id, worker_address, node, emitted, ended, began_at, ended_at
FROM attempts
UNION ALL
SELECT j.id, j.fence, j.worker_id, j.worker_address, split_part(j.worker_address, '/', 1),
    j.completion_tokens, coalesce(j.outcome, ''), coalesce(j.began_at, j.created_at), j.settled_at
FROM jobs j;
COMMENT ON VIEW job_attempts IS 'All attempts of each job, the current one among them.';

-- Whoever runs a job renews its lease every few seconds: no index covers what that changes, and the
-- one sweeper of the cluster reads the whole table, which has a row for each job that runs.
CREATE TABLE leases (
    job_id         uuid PRIMARY KEY,
    worker_id      text NOT NULL,
    worker_address text NOT NULL,
    fence          bigint NOT NULL,
    expires_at     timestamptz NOT NULL,
    emitted        integer NOT NULL DEFAULT 0
) WITH (
    -- They come and go with every request: vacuumed by their number, not by their share.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    fillfactor = 50
);
COMMENT ON TABLE leases IS 'One row per running job. It lives by renewal; the sweep closes the job when that ends.';
COMMENT ON COLUMN leases.emitted IS 'Output tokens so far, as whoever renewed it last has said.';

-- Nothing that was written is changed or deleted: who made a mistake adds what mends it.
CREATE FUNCTION only_added_to() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only ever added to: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TABLE prices (
    version   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model     text NOT NULL CHECK (model <> ''),
    currency  text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    prompt    bigint NOT NULL CHECK (prompt BETWEEN 0 AND 1000000000),
    cached    bigint NOT NULL CHECK (cached BETWEEN 0 AND 1000000000),
    reasoning bigint NOT NULL CHECK (reasoning BETWEEN 0 AND 1000000000),
    output    bigint NOT NULL CHECK (output BETWEEN 0 AND 1000000000),
    request   bigint NOT NULL DEFAULT 0 CHECK (request BETWEEN 0 AND 1000000000),
    from_at   timestamptz NOT NULL DEFAULT now(),
    made_at   timestamptz NOT NULL DEFAULT now(),
    made_by   text NOT NULL DEFAULT ''
);
COMMENT ON TABLE prices IS 'Micro-units of money per million tokens, and per request; only ever added to. A job keeps the version that was in force when it was reserved.';
COMMENT ON COLUMN prices.model IS 'name@version, name, or * for all; the most exact one counts.';

CREATE TRIGGER prices_only_added_to BEFORE UPDATE OR DELETE ON prices
    FOR EACH ROW EXECUTE FUNCTION only_added_to();
CREATE TRIGGER prices_not_emptied BEFORE TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION only_added_to();

CREATE FUNCTION tell_prices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tether_prices', '');
    RETURN NULL;
END $$;
CREATE TRIGGER prices_changed AFTER INSERT ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION tell_prices();

-- What an answer costs, in micro-units of money, rounded up once; 0 without a price. Cached tokens
-- are part of the prompt, reasoning ones of the output. The same as actors/core/price.py.
CREATE FUNCTION charge_micros(
    prompt_tokens integer, cached_tokens integer, reasoning_tokens integer, output_tokens integer,
    price prices
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce((price).request + (
        (prompt_tokens - least(cached_tokens, prompt_tokens)) * (price).prompt
        + least(cached_tokens, prompt_tokens) * (price).cached
        + (output_tokens - least(reasoning_tokens, output_tokens)) * (price).output
        + least(reasoning_tokens, output_tokens) * (price).reasoning
        + 999999) / 1000000, 0)
$$;

CREATE TABLE budgets (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants (id),
    key_id     uuid REFERENCES api_keys (id),
    model      text NOT NULL DEFAULT '',
    period     text NOT NULL CHECK (period IN ('day', 'month', 'total')),
    unit       text NOT NULL CHECK (unit IN ('micros', 'tokens')),
    amount     bigint NOT NULL CHECK (amount >= 0),
    warn       smallint[] NOT NULL DEFAULT '{80,95}' CHECK (0 < ALL (warn) AND 100 >= ALL (warn)),
    over       smallint NOT NULL DEFAULT 402 CHECK (over IN (402, 429)),
    made_at    timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz
);
COMMENT ON TABLE budgets IS 'What a tenant, or one of its keys, may spend on a model (empty: on all) in a period of UTC.';
CREATE INDEX budgets_tenant_id ON budgets (tenant_id);

CREATE FUNCTION tell_budgets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tether_budgets', '');
    RETURN NULL;
END $$;
CREATE TRIGGER budgets_changed AFTER INSERT OR UPDATE OR DELETE ON budgets
    FOR EACH STATEMENT EXECUTE FUNCTION tell_budgets();

CREATE TABLE budget_periods (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id bigint NOT NULL REFERENCES budgets (id),
    begins    date NOT NULL,
    spent     bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved  bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    UNIQUE (budget_id, begins)
) WITH (fillfactor = 50);
COMMENT ON TABLE budget_periods IS 'What of a budget is spent, and reserved by jobs that run; in the unit of the budget.';

CREATE TABLE budget_events (
    number    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id bigint NOT NULL REFERENCES budgets (id),
    period_id bigint NOT NULL REFERENCES budget_periods (id),
    share     smallint NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (period_id, share)
);
COMMENT ON TABLE budget_events IS 'Shares of budgets (per cent) that were reached, each once a period; only ever added to.';
CREATE INDEX budget_events_budget_id ON budget_events (budget_id, number);

CREATE SEQUENCE ledger_seq;
CREATE TABLE ledger (
    seq              bigint NOT NULL DEFAULT nextval('ledger_seq'),
    at               timestamptz NOT NULL DEFAULT now(),
    job_id           uuid NOT NULL,
    number           integer NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('charge', 'correction', 'refund')),
    tenant_id        text NOT NULL,
    key_id           uuid,
    endpoint         text NOT NULL DEFAULT '',
    model_ref        text NOT NULL,
    attempt          bigint NOT NULL,
    outcome          text NOT NULL,
    prompt_tokens    integer NOT NULL,
    cached_tokens    integer NOT NULL DEFAULT 0,
    reasoning_tokens integer NOT NULL DEFAULT 0,
    output_tokens    integer NOT NULL,
    micros           bigint NOT NULL DEFAULT 0,
    price            integer,
    currency         text NOT NULL DEFAULT '',
    note             text NOT NULL DEFAULT '',
    made_by          text NOT NULL DEFAULT '',
    PRIMARY KEY (job_id, number, at)
) PARTITION BY RANGE (at);
ALTER SEQUENCE ledger_seq OWNED BY ledger.seq;
COMMENT ON TABLE ledger IS 'Entries of bills, by month; only ever added to. The bill of a job is the sum of its entries.';
COMMENT ON COLUMN ledger.number IS 'From 1, within the job; jobs.entries counts them under the lock of its row, so none is there twice.';
COMMENT ON COLUMN ledger.attempt IS 'The fence under which it was settled.';
COMMENT ON COLUMN ledger.micros IS 'Micro-units of money; of a correction or refund it is the difference, and may be negative, as tokens may.';
CREATE INDEX ledger_tenant_id_at ON ledger (tenant_id, at);
-- Whoever seals asks for what is new: page ranges must be summarised soon after they were filled.
CREATE INDEX ledger_seq_brin ON ledger USING brin (seq)
    WITH (autosummarize = on, pages_per_range = 32);
CREATE TRIGGER ledger_only_added_to BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION only_added_to();
CREATE TRIGGER ledger_not_emptied BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION only_added_to();

-- Makes the partition of the month (of UTC) that `moment` is in; false if it is there. Attaching it keeps
-- nobody from adding entries meanwhile, as CREATE TABLE … PARTITION OF would.
CREATE FUNCTION ledger_make_partition(moment timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    month  timestamp := date_trunc('month', moment AT TIME ZONE 'UTC');
    name   text := 'ledger_' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(1958425780);
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE ledger INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
    EXECUTE format('ALTER TABLE ledger ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
    EXECUTE format('CREATE TRIGGER ledger_not_emptied BEFORE TRUNCATE ON %I '
        'FOR EACH STATEMENT EXECUTE FUNCTION only_added_to()', name);
    RETURN true;
END $$;

-- Makes the partitions of this month and of so many after it; returns how many it made. With the
-- rights of the schema's owner, for reservation owns no table.
CREATE FUNCTION ledger_make_partitions(months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    made integer := 0;
BEGIN
    FOR n IN 0..least(greatest(months, 0), 36) LOOP
        IF ledger_make_partition(
            (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => n))
            AT TIME ZONE 'UTC') THEN
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

-- Detaches and drops the partitions whose months ended by `before`; returns their names. It waits
-- for those who read the ledger for a second at most, since who adds to it waits behind it.
CREATE FUNCTION ledger_drop_before(before timestamptz) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '1s' AS $$
DECLARE
    gone text[] := '{}';
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'ledger'::regclass AND c.relname ~ '^ledger_\d{4}_\d{2}$'
            AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month')
                AT TIME ZONE 'UTC' <= least(before, now())
        ORDER BY c.relname
    LOOP
        EXECUTE format('ALTER TABLE ledger DETACH PARTITION %I', name);
        EXECUTE format('DROP TABLE %I', name);
        gone := gone || name;
    END LOOP;
    RETURN gone;
END $$;

-- Whoever calls them must not choose what the names in them mean, nor may just anybody.
DO $$
DECLARE
    called text;
BEGIN
    FOREACH called IN ARRAY ARRAY['ledger_make_partition(timestamptz)',
        'ledger_make_partitions(integer)', 'ledger_drop_before(timestamptz)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', called,
            current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', called);
    END LOOP;
END $$;

CREATE TABLE ledger_blocks (
    number    bigint PRIMARY KEY,
    from_seq  bigint NOT NULL,
    to_seq    bigint NOT NULL,
    entries   integer NOT NULL,
    first_at  timestamptz NOT NULL,
    last_at   timestamptz NOT NULL,
    root      bytea NOT NULL CHECK (octet_length(root) = 32),
    previous  bytea NOT NULL CHECK (octet_length(previous) = 32),
    hash      bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    sealed_at timestamptz NOT NULL DEFAULT now(),
    CHECK (from_seq <= to_seq),
    CHECK (entries > 0)
);
COMMENT ON TABLE ledger_blocks IS 'Sealed entries: the Merkle root of their hashes, chained to the block before.';
CREATE TRIGGER ledger_blocks_only_added_to BEFORE UPDATE OR DELETE ON ledger_blocks
    FOR EACH ROW EXECUTE FUNCTION only_added_to();
CREATE TRIGGER ledger_blocks_not_emptied BEFORE TRUNCATE ON ledger_blocks
    FOR EACH STATEMENT EXECUTE FUNCTION only_added_to();

CREATE INDEX ledger_blocks_to_seq ON ledger_blocks (to_seq);
CREATE TABLE ledger_leaves (
    block  bigint PRIMARY KEY REFERENCES ledger_blocks (number),
    leaves bytea NOT NULL
);
COMMENT ON TABLE ledger_leaves IS 'Of each block that still has its entries: seq (8 bytes) and hash (32) of each, by which an audit names what was changed. Nobody trusts it.';

-- Gives back so much of a job's bill, as an entry of its own; returns its number. `seen` is how many
-- entries the caller has computed the amounts by. What a job was billed in jobs.billed_… stays, so
-- that a settle which comes later bills no more than what is new. With the rights of the schema's
-- owner, for an operator may add no entry but this.
CREATE FUNCTION ledger_refund(
    of_job uuid, seen integer, prompt integer, cached integer, reasoning integer, output integer,
    money bigint, reason text, by_whom text
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    bill record;
    held bigint[];
BEGIN
    -- Whoever draws a number of the ledger has a transaction id before, or the sealer might pass it.
    PERFORM pg_current_xact_id();
    -- The row of the job counts its entries, but it may be deleted by now.
    PERFORM pg_advisory_xact_lock(2121935187, hashtext(of_job::text));
    SELECT j.budgets INTO held FROM jobs j WHERE j.id = of_job FOR UPDATE;
    SELECT count(*) AS entries, coalesce(max(l.number), 0) AS last,
        sum(l.prompt_tokens) AS prompt, sum(l.cached_tokens) AS cached,
        sum(l.reasoning_tokens) AS reasoning, sum(l.output_tokens) AS output,
        sum(l.micros) AS micros, min(l.at) AS since
        INTO bill FROM ledger l WHERE l.job_id = of_job;
    IF bill.entries = 0 THEN
        RAISE EXCEPTION 'nothing was billed for job %', of_job USING ERRCODE = 'no_data_found';
    END IF;
    IF bill.entries <> seen THEN
        RAISE EXCEPTION 'the bill of job % changed meanwhile', of_job
            USING ERRCODE = 'serialization_failure';
    END IF;
    IF least(prompt, cached, reasoning, output, money) < 0
        OR greatest(prompt, cached, reasoning, output, money) = 0 OR reason = '' THEN
        RAISE EXCEPTION 'a refund has a reason, and amounts above 0'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF prompt > bill.prompt OR cached > bill.cached OR reasoning > bill.reasoning
        OR output > bill.output OR money > bill.micros THEN
        RAISE EXCEPTION 'of job % no more than % micros and % tokens can be given back', of_job,
            bill.micros, bill.prompt + bill.output USING ERRCODE = 'numeric_value_out_of_range';
    END IF;
    UPDATE jobs j SET entries = j.entries + 1 WHERE j.id = of_job;
    PERFORM FROM budget_periods p WHERE p.id = ANY (held) ORDER BY p.id FOR UPDATE;
    UPDATE budget_periods p SET spent = greatest(0, p.spent
        - CASE b.unit WHEN 'micros' THEN money ELSE prompt::bigint + output END)
    FROM budgets b WHERE b.id = p.budget_id AND p.id = ANY (held);
    INSERT INTO ledger (job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt,
                        outcome, prompt_tokens, cached_tokens, reasoning_tokens, output_tokens,
                        micros, price, currency, note, made_by)
    SELECT l.job_id, bill.last + 1, 'refund', l.tenant_id, l.key_id, l.endpoint, l.model_ref,
        l.attempt, l.outcome, -prompt, -cached, -reasoning, -output, -money, l.price, l.currency,
        reason, by_whom
    FROM ledger l WHERE l.job_id = of_job ORDER BY l.number LIMIT 1;
    RETURN bill.last + 1;
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION ledger_refund SET search_path = pg_catalog, %I, pg_temp',
        current_schema());
    REVOKE ALL ON FUNCTION ledger_refund FROM PUBLIC;
END $$;

SELECT ledger_make_partitions(3);

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
