-- Budgets that hold exactly: what a job may come to is reserved with it, in one statement.

ALTER TABLE jobs ADD COLUMN max_tokens integer NOT NULL DEFAULT 0 CHECK (max_tokens >= 0);
COMMENT ON COLUMN jobs.max_tokens IS 'Output tokens that its budgets afford, where that is fewer than were asked for; 0: as asked.';

-- A budget is known by what it is for; what else it says may be changed.
CREATE UNIQUE INDEX budgets_living ON budgets
    (tenant_id, coalesce(key_id, '00000000-0000-0000-0000-000000000000'), model, period, unit)
    WHERE removed_at IS NULL;

ALTER TABLE budget_periods
    ADD COLUMN warns_at bigint,
    ADD COLUMN refused  bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN budget_periods.warns_at IS 'The next sum of spent at which an event is written; null: none.';
COMMENT ON COLUMN budget_periods.refused IS 'Requests that it had no room for.';

ALTER TABLE budget_events
    ADD COLUMN spent  bigint NOT NULL,
    ADD COLUMN amount bigint NOT NULL,
    ADD COLUMN told   boolean NOT NULL DEFAULT false;
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
-- nothing. A job without `exact` may have its answer cut short, down to one token. What it was
-- billed before, under another attempt, it needs no room for; one that is `said` was billed in full
-- and lost, so it is told once more at no cost, and never refused.
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
            SELECT array_agg(array_position(locked, p.id) ORDER BY p.id) AS places,
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
