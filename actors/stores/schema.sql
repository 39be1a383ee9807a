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
    max_tokens        integer NOT NULL DEFAULT 0 CHECK (max_tokens >= 0),
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
COMMENT ON COLUMN jobs.max_tokens IS 'Output tokens that its budgets afford, where that is fewer than were asked for; 0: as asked.';
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
    warns_at  bigint,
    refused   bigint NOT NULL DEFAULT 0,
    UNIQUE (budget_id, begins)
) WITH (fillfactor = 50);
COMMENT ON TABLE budget_periods IS 'What of a budget is spent, and reserved by jobs that run; in the unit of the budget.';

CREATE TABLE budget_events (
    number    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id bigint NOT NULL REFERENCES budgets (id),
    period_id bigint NOT NULL REFERENCES budget_periods (id),
    share     smallint NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    spent     bigint NOT NULL,
    amount    bigint NOT NULL,
    told      boolean NOT NULL DEFAULT false,
    UNIQUE (period_id, share)
);
COMMENT ON TABLE budget_events IS 'Shares of budgets (per cent) that were reached, each once a period; only ever added to.';
CREATE INDEX budget_events_budget_id ON budget_events (budget_id, number);

-- A budget is known by what it is for; what else it says may be changed.
CREATE UNIQUE INDEX budgets_living ON budgets
    (tenant_id, coalesce(key_id, '00000000-0000-0000-0000-000000000000'), model, period, unit)
    WHERE removed_at IS NULL;

COMMENT ON COLUMN budget_periods.warns_at IS 'The next sum of spent at which an event is written; null: none.';
COMMENT ON COLUMN budget_periods.refused IS 'Requests that it had no room for.';

COMMENT ON COLUMN budget_events.told IS 'Some reservation has logged and counted it.';
CREATE INDEX budget_events_untold ON budget_events (number) WHERE NOT told;

-- The first day of the period that a day is in.
CREATE FUNCTION budget_begins(period text, day date) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE period WHEN 'day' THEN day WHEN 'month' THEN day - (extract(day FROM day)::integer - 1)
        ELSE date '1970-01-01' END
$$;

-- The least sum above `spent` at which one of the shares, or all of the amount, is reached.
CREATE FUNCTION budget_warns_at(amount bigint, warn smallint[], spent bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT min(at) FROM (
        SELECT greatest(1, (amount * share + 99) / 100) AS at FROM unnest(warn || 100::smallint) share
    ) shares WHERE at > spent
$$;

-- Ids become visible in their order, so that whoever has seen the greatest has seen all before it.
CREATE FUNCTION budgets_one_by_one() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1958425781);
    RETURN NULL;
END $$;
CREATE TRIGGER budgets_one_by_one BEFORE INSERT ON budgets
    FOR EACH STATEMENT EXECUTE FUNCTION budgets_one_by_one();

-- Shares are reached once a period, by whatever has changed: what is spent, or the amount.
CREATE FUNCTION budget_reached() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    b budgets;
BEGIN
    SELECT * INTO b FROM budgets WHERE id = NEW.budget_id;
    INSERT INTO budget_events (budget_id, period_id, share, spent, amount)
    SELECT b.id, NEW.id, share, NEW.spent, b.amount
    FROM unnest(b.warn || 100::smallint) share
    WHERE NEW.spent >= greatest(1, (b.amount * share + 99) / 100)
    ORDER BY share
    ON CONFLICT (period_id, share) DO NOTHING;
    NEW.warns_at := budget_warns_at(b.amount, b.warn, NEW.spent);
    RETURN NEW;
END $$;
CREATE TRIGGER budget_reached BEFORE UPDATE ON budget_periods
    FOR EACH ROW WHEN (NEW.spent >= NEW.warns_at) EXECUTE FUNCTION budget_reached();

CREATE FUNCTION budget_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budget_periods SET warns_at = budget_warns_at(NEW.amount, NEW.warn, 0)
    WHERE budget_id = NEW.id AND spent < greatest(NEW.amount, OLD.amount);
    RETURN NULL;
END $$;
CREATE TRIGGER budget_changed AFTER UPDATE OF amount, warn ON budgets
    FOR EACH ROW WHEN (NEW.removed_at IS NULL) EXECUTE FUNCTION budget_changed();

-- The most that a job can cost with an answer of `output` tokens, in micro-units of money; the same
-- as actors/core/request_bound.py.
CREATE FUNCTION bound_micros(
    prompt bigint, output bigint, total bigint, a_prompt bigint, an_output bigint, a_request bigint
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN an_output >= a_prompt
        THEN (least(prompt, total - least(output, total)) * a_prompt
              + least(output, total) * an_output + 999999) / 1000000
        ELSE (least(prompt, total) * a_prompt
              + least(output, total - least(prompt, total)) * an_output + 999999) / 1000000
        END + a_request
$$;

-- Reserves, for jobs whose rows are this transaction's own, what they may come to, on each budget
-- that they fall under as requests to `models` under the versions `prices`. In the order of `ids`,
-- each takes its share before the next is looked at; one that some budget has no room for takes
-- nothing, and is told of the first such, in the order of the budgets' ids. A job without `exact`
-- may have its answer cut short, down to one token. What it was billed before, under another
-- attempt, it needs no room for; one that is `said` was billed in full and lost, so it is told once
-- more at no cost, and never refused.
-- Answers for each job: where its answer ends (0: as asked), or which budget has no room for it, and
-- how much there is of that.
CREATE FUNCTION hold_within_budgets(
    ids uuid[], models text[], prices integer[], prompts integer[], outputs integer[],
    totals integer[], exact boolean[], said boolean[]
) RETURNS TABLE (job_id uuid, afforded integer, refused_by bigint, room bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    today  date := (now() AT TIME ZONE 'UTC')::date;
    locked bigint[];
    owners bigint[];
    money  boolean[];
    rest   bigint[];
    took   bigint[];
    turned bigint[];
    ask    record;
    at     integer;
    most   bigint;
    output bigint;
    fits   bigint;
    over   bigint;
    tried  bigint;
    micros bigint;
    tokens bigint;
BEGIN
    INSERT INTO budget_periods (budget_id, begins, warns_at)
    SELECT DISTINCT b.id, budget_begins(b.period, today), budget_warns_at(b.amount, b.warn, 0)
    FROM unnest(ids, models) AS a (id, model) JOIN jobs j ON j.id = a.id
    JOIN budgets b ON b.tenant_id = j.tenant_id AND b.removed_at IS NULL
        AND (b.key_id IS NULL OR b.key_id = j.key_id)
        AND b.model IN ('', a.model, split_part(a.model, '@', 1))
    WHERE NOT EXISTS (SELECT FROM budget_periods p
                      WHERE p.budget_id = b.id AND p.begins = budget_begins(b.period, today))
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING;

    SELECT array_agg(id) INTO locked FROM (
        SELECT p.id FROM budget_periods p WHERE p.id IN (
            SELECT q.id FROM unnest(ids, models) AS a (id, model) JOIN jobs j ON j.id = a.id
            JOIN budgets b ON b.tenant_id = j.tenant_id AND b.removed_at IS NULL
                AND (b.key_id IS NULL OR b.key_id = j.key_id)
                AND b.model IN ('', a.model, split_part(a.model, '@', 1))
            JOIN budget_periods q
                ON q.budget_id = b.id AND q.begins = budget_begins(b.period, today)
        ) ORDER BY p.id FOR NO KEY UPDATE
    ) periods;

    -- As they are now that nobody else can change them. A budget that was made only now is not
    -- among them: it holds for those who ask after us.
    SELECT array_agg(b.id ORDER BY l.n), array_agg(b.unit = 'micros' ORDER BY l.n),
        array_agg(greatest(0, b.amount - p.spent - p.reserved) ORDER BY l.n),
        array_agg(0::bigint), array_agg(0::bigint)
    INTO owners, money, rest, took, turned
    FROM unnest(locked) WITH ORDINALITY AS l (id, n)
    JOIN budget_periods p ON p.id = l.id JOIN budgets b ON b.id = p.budget_id;

    FOR ask IN
        SELECT a.id, a.prompt::bigint AS prompt, a.total::bigint AS total, a.exact, a.said,
            a.output AS asked,
            CASE WHEN j.max_tokens > 0 THEN least(a.output, j.max_tokens) ELSE a.output END AS output,
            j.billed_micros, j.billed_output, j.billed_prompt + j.billed_output AS billed_tokens,
            r.version, greatest(r.prompt, r.cached) AS a_prompt,
            greatest(r.output, r.reasoning) AS an_output, r.request AS a_request,
            coalesce(f.places, '{}') AS places, coalesce(f.periods, '{}') AS periods
        FROM unnest(ids, models, prices, prompts, outputs, totals, exact, said) WITH ORDINALITY
            AS a (id, model, price, prompt, output, total, exact, said, n)
        JOIN jobs j ON j.id = a.id
        LEFT JOIN prices r ON r.version = a.price
        CROSS JOIN LATERAL (
            SELECT array_agg(array_position(locked, p.id) ORDER BY b.id) AS places,
                array_agg(p.id ORDER BY p.id) AS periods
            FROM budgets b JOIN budget_periods p
                ON p.budget_id = b.id AND p.begins = budget_begins(b.period, today)
            WHERE b.tenant_id = j.tenant_id AND b.removed_at IS NULL AND p.id = ANY (locked)
                AND (b.key_id IS NULL OR b.key_id = j.key_id)
                AND b.model IN ('', a.model, split_part(a.model, '@', 1))
        ) f
        ORDER BY a.n
    LOOP
        job_id := ask.id;
        afforded := 0;
        refused_by := NULL;
        room := NULL;
        output := ask.output;
        FOREACH at IN ARRAY ask.places LOOP
            most := rest[at]
                + CASE WHEN money[at] THEN ask.billed_micros ELSE ask.billed_tokens END;
            -- the longest answer that there is room for: all of it, or else by halves
            fits := NULL;
            over := output + 1;
            tried := output;
            WHILE tried IS NOT NULL LOOP
                IF (CASE WHEN NOT money[at] THEN least(ask.prompt + tried, ask.total)
                         WHEN ask.version IS NULL THEN ask.billed_micros
                         ELSE bound_micros(ask.prompt, tried, ask.total, ask.a_prompt,
                                           ask.an_output, ask.a_request)
                    END) <= most THEN
                    fits := tried;
                ELSE
                    over := tried;
                END IF;
                tried := CASE
                    WHEN coalesce(fits, 0) + 1 < over AND NOT ask.exact
                        THEN (coalesce(fits, 0) + over) / 2
                    END;
            END LOOP;
            IF fits IS NULL THEN
                refused_by := owners[at];
                room := rest[at];
                EXIT;
            END IF;
            output := fits;
        END LOOP;
        IF refused_by IS NULL THEN
            tokens := greatest(0, least(ask.prompt + output, ask.total) - ask.billed_tokens);
            micros := coalesce(greatest(0, bound_micros(ask.prompt, output, ask.total, ask.a_prompt,
                                                        ask.an_output, ask.a_request)
                                           - ask.billed_micros), 0);
        ELSIF ask.said THEN
            refused_by := NULL;
            room := NULL;
            output := greatest(1, ask.billed_output);
            tokens := 0;
            micros := 0;
        ELSE
            turned[at] := turned[at] + 1;
            RETURN NEXT;
            CONTINUE;
        END IF;
        FOREACH at IN ARRAY ask.places LOOP
            took[at] := took[at] + CASE WHEN money[at] THEN micros ELSE tokens END;
            rest[at] := rest[at] - CASE WHEN money[at] THEN micros ELSE tokens END;
        END LOOP;
        IF output < ask.asked THEN
            afforded := output;
        END IF;
        UPDATE jobs SET budgets = ask.periods, held_micros = micros, held_tokens = tokens,
            max_tokens = afforded
        WHERE id = ask.id;
        RETURN NEXT;
    END LOOP;

    UPDATE budget_periods p SET reserved = p.reserved + t.took, refused = p.refused + t.turned
    FROM unnest(locked, took, turned) AS t (id, took, turned)
    WHERE p.id = t.id AND (t.took > 0 OR t.turned > 0);
END $$;

-- Opens jobs whose tenants have budgets: each new one gets a row, and what it may come to is
-- reserved; then it gets a lease of `seconds`, or it was refused, and its row goes. Rows come in the
-- order in which jobs are locked everywhere, and take their share of budgets by their `turns`.
-- Answers with those that are new, by their ordinals. A lease of a job that nobody knows of yet waits
-- for nobody, so it may come after the locks of budgets.
CREATE FUNCTION open_within_budgets(
    ids uuid[], tenants text[], endpoints text[], tokens text[], fingerprints bytea[],
    models text[], workers text[], addresses text[], attempts integer[], claims bigint[],
    keys uuid[], prices integer[], seconds float8, prompts integer[], outputs integer[],
    totals integer[], exact boolean[], turns integer[]
) RETURNS TABLE (n integer, afforded integer, refused_by bigint, room bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    fresh   uuid[];
    refused uuid[] := '{}';
    held    record;
BEGIN
    WITH opened AS (
        INSERT INTO jobs (id, tenant_id, endpoint, retry_token, fingerprint, model_ref, worker_id,
                          worker_address, attempt, claim, key_id, price)
        SELECT * FROM unnest(ids, tenants, endpoints, tokens, fingerprints, models, workers,
                             addresses, attempts, claims, keys, prices)
        ON CONFLICT DO NOTHING
        RETURNING id, retry_token
    )
    SELECT array_agg(o.id) INTO fresh
    FROM opened o JOIN unnest(ids, tokens) AS a (id, token) ON a.id = o.id AND a.token = o.retry_token;
    IF fresh IS NULL THEN
        RETURN;
    END IF;
    FOR held IN
        SELECT h.* FROM (
            SELECT array_agg(id ORDER BY turn) AS ids, array_agg(model ORDER BY turn) AS models,
                array_agg(price ORDER BY turn) AS prices,
                array_agg(prompt ORDER BY turn) AS prompts,
                array_agg(output ORDER BY turn) AS outputs,
                array_agg(total ORDER BY turn) AS totals, array_agg(exact ORDER BY turn) AS exact,
                array_agg(false) AS said
            FROM unnest(ids, models, prices, prompts, outputs, totals, exact, turns)
                AS a (id, model, price, prompt, output, total, exact, turn)
            WHERE a.id = ANY (fresh)
        ) a CROSS JOIN LATERAL hold_within_budgets(a.ids, a.models, a.prices, a.prompts, a.outputs,
                                                   a.totals, a.exact, a.said) h
    LOOP
        n := array_position(ids, held.job_id);
        afforded := held.afforded;
        refused_by := held.refused_by;
        room := held.room;
        IF refused_by IS NOT NULL THEN
            refused := refused || held.job_id;
        END IF;
        RETURN NEXT;
    END LOOP;
    DELETE FROM jobs WHERE id = ANY (refused);
    INSERT INTO leases (job_id, worker_id, worker_address, fence, expires_at)
    SELECT id, worker_id, worker_address, 1, now() + seconds * interval '1 second'
    FROM jobs WHERE id = ANY (fresh);
END $$;

-- Reserves once more for jobs that are over and about to be given anew, by whom `contest` calls
-- "anew"; in the same transaction `contest` must give them, or nothing of it may be committed.
-- Answers with those that it found, by their ordinals.
CREATE FUNCTION hold_anew_within_budgets(
    tenants text[], endpoints text[], tokens text[], fingerprints bytea[], models text[],
    prices integer[], lost bigint[], prompts integer[], outputs integer[], totals integer[],
    exact boolean[], turns integer[]
) RETURNS TABLE (n integer, afforded integer, refused_by bigint, room bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found uuid[];
    nth   integer[];
    held  record;
BEGIN
    SELECT array_agg(id), array_agg(m) INTO found, nth FROM (
        SELECT j.id, a.n::integer AS m
        FROM unnest(tenants, endpoints, tokens, fingerprints, lost) WITH ORDINALITY
            AS a (tenant, endpoint, token, fingerprint, lost, n)
        JOIN jobs j ON j.tenant_id = a.tenant AND j.endpoint = a.endpoint AND j.retry_token = a.token
        WHERE j.state = 'settled' AND j.fingerprint = a.fingerprint
            AND (j.outcome <> 'completed' OR a.lost = j.fence)
        ORDER BY j.id
        FOR UPDATE OF j
    ) jobs;
    IF found IS NULL THEN
        RETURN;
    END IF;
    FOR held IN
        SELECT h.* FROM (
            SELECT array_agg(j.id ORDER BY turns[f.m]) AS ids,
                array_agg(models[f.m] ORDER BY turns[f.m]) AS models,
                array_agg(prices[f.m] ORDER BY turns[f.m]) AS prices,
                array_agg(prompts[f.m] ORDER BY turns[f.m]) AS prompts,
                array_agg(outputs[f.m] ORDER BY turns[f.m]) AS outputs,
                array_agg(totals[f.m] ORDER BY turns[f.m]) AS totals,
                array_agg(exact[f.m] ORDER BY turns[f.m]) AS exact,
                array_agg(j.outcome = 'completed' ORDER BY turns[f.m]) AS said
            FROM unnest(found, nth) AS f (id, m) JOIN jobs j ON j.id = f.id
        ) a CROSS JOIN LATERAL hold_within_budgets(a.ids, a.models, a.prices, a.prompts, a.outputs,
                                                   a.totals, a.exact, a.said) h
    LOOP
        n := nth[array_position(found, held.job_id)];
        afforded := held.afforded;
        refused_by := held.refused_by;
        room := held.room;
        RETURN NEXT;
    END LOOP;
END $$;


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
