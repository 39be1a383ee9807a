-- Every statement that Tether sends, with a name and a sentence.
-- Lock order, everywhere: jobs before leases before budget_periods before ledger before answers;
-- reserves in the order of (tenant, endpoint, token), all else in that of the job's id, as their sender sorts them.

-- name: settle_and_reserve
-- One round: gives each new job a row and a lease, and closes each told job that runs under this
-- fence and was never billed; answers with the ordinals of the reserves ($1–$12; leases of $13
-- seconds; none unless $27 is the newest budget, so that one is never overlooked) and settles
-- ($14–$25) that took effect. Who settles from another node (not '') has the job there. An answer
-- that comes along is kept for $26 seconds. What isn't closed here is for `amend`.
WITH asked AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[],
        $8::text[], $9::integer[], $10::bigint[], $11::uuid[], $12::integer[]
    ) WITH ORDINALITY AS t (job_id, tenant_id, endpoint, retry_token, fingerprint, model_ref,
                            worker_id, worker_address, attempt, claim, key_id, price, n)
), opened AS (
    INSERT INTO jobs (id, tenant_id, endpoint, retry_token, fingerprint, model_ref, worker_id,
                      worker_address, attempt, claim, key_id, price)
    SELECT job_id, tenant_id, endpoint, retry_token, fingerprint, model_ref, worker_id,
        worker_address, attempt, claim, key_id, price
    FROM asked WHERE (SELECT coalesce(max(id), 0) FROM budgets) = $27::bigint
    ON CONFLICT DO NOTHING
    RETURNING id, retry_token, worker_id, worker_address
), leased AS (
    INSERT INTO leases (job_id, worker_id, worker_address, fence, expires_at)
    SELECT id, worker_id, worker_address, 1, now() + $13::float8 * interval '1 second'
    FROM opened
), told AS (
    SELECT * FROM unnest(
        $14::uuid[], $15::bigint[], $16::text[], $17::integer[], $18::integer[], $19::integer[],
        $20::integer[], $21::text[], $22::text[], $23::boolean[], $24::text[], $25::bytea[]
    ) WITH ORDINALITY AS t (job_id, fence, outcome, prompt, cached, reasoning, output, finish,
                            error_code, billed, node, answer, n)
), closed AS (
    UPDATE jobs j
    SET state = 'settled', outcome = t.outcome, prompt_tokens = t.prompt,
        completion_tokens = t.output, finish = t.finish, error_code = t.error_code,
        settled_at = now(), entries = t.billed::integer,
        billed_prompt = CASE WHEN t.billed THEN t.prompt ELSE 0 END,
        billed_cached = CASE WHEN t.billed THEN t.cached ELSE 0 END,
        billed_reasoning = CASE WHEN t.billed THEN t.reasoning ELSE 0 END,
        billed_output = CASE WHEN t.billed THEN t.output ELSE 0 END,
        billed_micros = CASE WHEN t.billed AND j.price IS NOT NULL THEN coalesce((
            SELECT charge_micros(t.prompt, t.cached, t.reasoning, t.output, p)
            FROM prices p WHERE p.version = j.price
        ), 0) ELSE 0 END
    FROM told t
    WHERE j.id = t.job_id AND j.fence = t.fence AND j.state = 'running' AND j.entries = 0
        AND t.node IN ('', split_part(j.worker_address, '/', 1))
    RETURNING t.n, t.answer, j.id, j.tenant_id, j.key_id, j.endpoint, j.model_ref, j.fence, j.outcome,
        j.entries, j.billed_prompt, j.billed_cached, j.billed_reasoning, j.billed_output,
        j.billed_micros, j.price, j.budgets, j.held_micros, j.held_tokens
), freed AS (
    DELETE FROM leases l USING closed c WHERE l.job_id = c.id
    RETURNING 1
), spent AS (
    UPDATE budget_periods p
    SET spent = p.spent + s.spent, reserved = greatest(0, p.reserved - s.held)
    FROM (
        SELECT u.period, sum(CASE b.unit WHEN 'micros' THEN c.billed_micros
                ELSE c.billed_prompt::bigint + c.billed_output END) AS spent,
            sum(CASE b.unit WHEN 'micros' THEN c.held_micros ELSE c.held_tokens END) AS held
        FROM closed c CROSS JOIN LATERAL unnest(c.budgets) AS u (period)
        JOIN budget_periods q ON q.id = u.period JOIN budgets b ON b.id = q.budget_id
        GROUP BY u.period ORDER BY u.period
    ) s
    WHERE p.id = s.period
    RETURNING 1
), billed AS (
    INSERT INTO ledger (job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt,
                        outcome, prompt_tokens, cached_tokens, reasoning_tokens, output_tokens,
                        micros, price, currency)
    SELECT c.id, 1, 'charge', c.tenant_id, c.key_id, c.endpoint, c.model_ref, c.fence, c.outcome,
        c.billed_prompt, c.billed_cached, c.billed_reasoning, c.billed_output, c.billed_micros,
        c.price, coalesce((SELECT p.currency FROM prices p WHERE p.version = c.price), '')
    FROM closed c WHERE c.entries = 1
), kept AS (
    INSERT INTO answers (job_id, tenant_id, endpoint, bytes, size, expires_at)
    SELECT c.id, c.tenant_id, c.endpoint, c.answer, octet_length(c.answer),
        now() + $26::float8 * interval '1 second'
    FROM closed c WHERE c.answer <> ''
    ON CONFLICT (job_id) DO UPDATE
    SET bytes = excluded.bytes, size = excluded.size, kept_at = excluded.kept_at,
        expires_at = excluded.expires_at
)
SELECT
    (SELECT array_agg(a.n::integer) FROM opened o
     JOIN asked a ON a.job_id = o.id AND a.retry_token = o.retry_token) AS opened,
    (SELECT array_agg(c.n::integer) FROM closed c) AS closed,
    (SELECT coalesce(max(id), 0) FROM budgets) AS newest_budget,
    -- These take the rows of leases before those of budgets.
    (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM spent) AS spent;

-- name: amend
-- Closes told jobs ($1–$13) that a round has left: swept, billed before, or of an older fence with
-- an answer that was delivered; answers with the ordinals of those that it closed. What is billed
-- beyond the entries so far becomes one more of them, and no bill becomes less by a broken-off
-- answer. Who settles under an older fence from another node (not '') had the job there. An answer
-- that comes along is kept for $14 seconds.
WITH told AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::integer[],
        $7::integer[], $8::text[], $9::text[], $10::boolean[], $11::text[], $12::bytea[],
        $13::boolean[]
    ) WITH ORDINALITY AS t (job_id, fence, outcome, prompt, cached, reasoning, output, finish,
                            error_code, billed, node, answer, delivered, n)
), held AS (
    SELECT t.*, j.state = 'running' AS ran, j.entries, j.billed_prompt, j.billed_cached,
        j.billed_reasoning, j.billed_output, j.billed_micros,
        t.billed AND (j.entries = 0 OR t.output >= j.billed_output) AS counts
    FROM told t JOIN jobs j ON j.id = t.job_id
    WHERE (j.fence = t.fence AND (j.state = 'running' OR j.outcome = 'expired')
           OR t.delivered AND t.fence <= j.fence AND j.outcome IS DISTINCT FROM 'completed')
        AND (t.node IN ('', split_part(j.worker_address, '/', 1))
             OR t.fence < j.fence AND EXISTS (
                 SELECT FROM attempts a
                 WHERE a.job_id = j.id AND a.number = t.fence AND a.node = t.node))
    ORDER BY j.id
    FOR UPDATE OF j
), billed AS (
    SELECT h.*, CASE WHEN h.counts THEN h.prompt ELSE h.billed_prompt END AS to_prompt,
        CASE WHEN h.counts THEN h.cached ELSE h.billed_cached END AS to_cached,
        CASE WHEN h.counts THEN h.reasoning ELSE h.billed_reasoning END AS to_reasoning,
        CASE WHEN h.counts THEN h.output ELSE h.billed_output END AS to_output,
        CASE WHEN h.counts THEN coalesce((
            SELECT charge_micros(h.prompt, h.cached, h.reasoning, h.output, p)
            FROM jobs j JOIN prices p ON p.version = j.price WHERE j.id = h.job_id
        ), 0) ELSE h.billed_micros END AS to_micros
    FROM held h
), added AS (
    SELECT b.*, b.counts AND (b.entries = 0
        OR (b.to_prompt, b.to_cached, b.to_reasoning, b.to_output, b.to_micros)
        <> (b.billed_prompt, b.billed_cached, b.billed_reasoning, b.billed_output, b.billed_micros)
        ) AS enters
    FROM billed b
), closed AS (
    UPDATE jobs j
    SET state = 'settled', outcome = t.outcome, prompt_tokens = t.prompt,
        completion_tokens = t.output, finish = t.finish, error_code = t.error_code,
        settled_at = now(), entries = t.entries + t.enters::integer, billed_prompt = t.to_prompt,
        billed_cached = t.to_cached, billed_reasoning = t.to_reasoning,
        billed_output = t.to_output, billed_micros = t.to_micros
    FROM added t WHERE j.id = t.job_id
    RETURNING t.n, t.answer, t.fence AS told_fence, t.ran, t.enters,
        t.to_prompt - t.billed_prompt AS more_prompt, t.to_cached - t.billed_cached AS more_cached,
        t.to_reasoning - t.billed_reasoning AS more_reasoning,
        t.to_output - t.billed_output AS more_output, t.to_micros - t.billed_micros AS more_micros,
        j.id, j.tenant_id, j.key_id, j.endpoint, j.model_ref, j.outcome, j.entries, j.price,
        j.budgets, j.held_micros, j.held_tokens
), freed AS (
    DELETE FROM leases l USING closed c WHERE l.job_id = c.id
    RETURNING 1
), spent AS (
    UPDATE budget_periods p
    SET spent = greatest(0, p.spent + s.spent), reserved = greatest(0, p.reserved - s.held)
    FROM (
        SELECT u.period, sum(CASE b.unit WHEN 'micros' THEN c.more_micros
                ELSE c.more_prompt::bigint + c.more_output END) AS spent,
            sum(CASE WHEN NOT c.ran THEN 0
                WHEN b.unit = 'micros' THEN c.held_micros ELSE c.held_tokens END) AS held
        FROM closed c CROSS JOIN LATERAL unnest(c.budgets) AS u (period)
        JOIN budget_periods q ON q.id = u.period JOIN budgets b ON b.id = q.budget_id
        GROUP BY u.period ORDER BY u.period
    ) s
    WHERE p.id = s.period
    RETURNING 1
), entered AS (
    INSERT INTO ledger (job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt,
                        outcome, prompt_tokens, cached_tokens, reasoning_tokens, output_tokens,
                        micros, price, currency)
    SELECT c.id, c.entries, CASE c.entries WHEN 1 THEN 'charge' ELSE 'correction' END,
        c.tenant_id, c.key_id, c.endpoint, c.model_ref, c.told_fence, c.outcome, c.more_prompt,
        c.more_cached, c.more_reasoning, c.more_output, c.more_micros, c.price,
        coalesce((SELECT p.currency FROM prices p WHERE p.version = c.price), '')
    FROM closed c WHERE c.enters
), kept AS (
    INSERT INTO answers (job_id, tenant_id, endpoint, bytes, size, expires_at)
    SELECT c.id, c.tenant_id, c.endpoint, c.answer, octet_length(c.answer),
        now() + $14::float8 * interval '1 second'
    FROM closed c WHERE c.answer <> ''
    ON CONFLICT (job_id) DO UPDATE
    SET bytes = excluded.bytes, size = excluded.size, kept_at = excluded.kept_at,
        expires_at = excluded.expires_at
)
SELECT (SELECT array_agg(c.n::integer) FROM closed c) AS closed,
    (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM spent) AS spent;

-- name: contest
-- Says what the job is whose retry token a reserve found taken (ours, running, completed, of
-- another body, or free for who names no worker and only asks); gives the job away anew where it
-- ended badly or its answer is lost, or moves to another worker for who holds its claim; and
-- leaves the claim to who is led to it ("led"). Its id stays; the attempt that it leaves is kept.
-- One that is over is given only if $16 is the newest budget, for it may have to reserve of that
-- ("anew"); without $16 it has.
WITH asked AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[],
        $8::text[], $9::integer[], $10::bigint[], $11::uuid[], $12::integer[], $14::bigint[],
        $15::bigint[]
    ) WITH ORDINALITY AS t (job_id, tenant_id, endpoint, retry_token, fingerprint, model_ref,
                            worker_id, worker_address, attempt, claim, key_id, price, holds, lost,
                            n)
), found AS (
    SELECT a.*, j.id AS held_id, j.worker_id AS held_worker, j.worker_address AS held_address,
        j.fence AS held_fence, j.claim AS held_claim, j.outcome AS held_outcome,
        j.state = 'settled' AS over, j.attempt AS held_attempt, j.completion_tokens AS held_output,
        coalesce(j.began_at, j.created_at) AS held_since, j.fingerprint <> a.fingerprint AS other,
        j.id = a.job_id AS same,
        -- It was given by this very ask, whose answer was lost; by the ask before this one.
        a.claim <> 0 AND j.claim = a.claim AND NOT j.led AS ours,
        a.holds <> 0 AND j.claim = a.holds AND (j.id = a.job_id OR NOT j.led) AS holder,
        j.max_tokens AS held_most
    FROM asked a JOIN jobs j ON j.tenant_id = a.tenant_id AND j.endpoint = a.endpoint
        AND j.retry_token = a.retry_token
    ORDER BY j.id
    FOR UPDATE OF j
), held AS (
    SELECT f.*,
        CASE
            WHEN f.other THEN 'conflict'
            WHEN f.held_outcome = 'completed' AND (f.lost <> f.held_fence OR f.worker_id = '')
                THEN 'completed'
            WHEN f.worker_id = '' AND (f.over OR f.same OR f.ours OR f.holder) THEN 'free'
            WHEN f.over AND $16::bigint <> (SELECT coalesce(max(id), 0) FROM budgets) THEN 'anew'
            WHEN f.over THEN 'give'
            WHEN f.claim = 0 THEN CASE
                WHEN NOT f.same OR f.attempt < f.held_attempt THEN 'running'
                WHEN f.attempt > f.held_attempt THEN 'give'
                ELSE 'ours'
            END
            WHEN f.ours THEN 'ours'
            WHEN f.holder THEN 'give'
            WHEN f.same OR f.holds <> 0 THEN 'running'
            ELSE 'led'
        END AS verdict
    FROM found f
), leaving AS (
    INSERT INTO attempts (job_id, number, worker_id, worker_address, node, emitted, ended, began_at)
    SELECT h.held_id, h.held_fence, h.held_worker, h.held_address,
        split_part(h.held_address, '/', 1), greatest(h.held_output, coalesce(l.emitted, 0)),
        coalesce(h.held_outcome, 'moved'), h.held_since
    FROM held h LEFT JOIN leases l ON l.job_id = h.held_id AND l.fence = h.held_fence
    WHERE h.verdict = 'give'
    ON CONFLICT DO NOTHING
), given AS (
    UPDATE jobs j
    SET state = 'running', outcome = NULL, settled_at = NULL, finish = '', error_code = '',
        prompt_tokens = 0, completion_tokens = 0, model_ref = h.model_ref, attempt = h.attempt,
        claim = h.claim, led = false, fence = j.fence + 1, worker_id = h.worker_id,
        worker_address = h.worker_address, began_at = now(),
        -- What it has reserved was reckoned by the price that it has.
        price = CASE WHEN h.over OR j.budgets = '{}' THEN h.price ELSE j.price END,
        -- What it had reserved of budgets was given back when it was closed.
        held_micros = CASE WHEN h.over AND $16 IS NOT NULL THEN 0 ELSE j.held_micros END,
        held_tokens = CASE WHEN h.over AND $16 IS NOT NULL THEN 0 ELSE j.held_tokens END
    FROM held h
    WHERE j.id = h.held_id AND j.fence = h.held_fence AND h.verdict = 'give'
    RETURNING h.n, j.id, j.fence, h.worker_id, h.worker_address
), led AS (
    UPDATE jobs j SET claim = h.claim, led = true
    FROM held h WHERE j.id = h.held_id AND j.fence = h.held_fence AND h.verdict = 'led'
), leased AS (
    INSERT INTO leases (job_id, worker_id, worker_address, fence, expires_at)
    SELECT id, worker_id, worker_address, fence, now() + $13::float8 * interval '1 second'
    FROM given
    ON CONFLICT (job_id) DO UPDATE
    SET worker_id = excluded.worker_id, worker_address = excluded.worker_address,
        fence = excluded.fence, expires_at = excluded.expires_at, emitted = 0
)
SELECT h.n::integer AS n, h.verdict, h.held_id, h.held_worker, h.held_address, h.held_fence,
    h.held_claim, g.fence AS given_fence, h.held_most
FROM held h LEFT JOIN given g ON g.n = h.n;

-- name: budgeted_tenants
-- The newest budget, and the tenants that have living ones.
SELECT coalesce(max(id), 0) AS newest,
    array_agg(DISTINCT tenant_id) FILTER (WHERE removed_at IS NULL) AS tenants
FROM budgets;

-- name: open_within_budgets
-- Opens jobs ($1–$12, leases of $13 seconds) whose tenants have budgets, by the bounds of what they
-- may use ($14–$17), in their turns ($18).
SELECT n, afforded, refused_by, room FROM open_within_budgets(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18);

-- name: hold_anew_within_budgets
-- Reserves for jobs ($1–$5, under the prices $6) that are over and about to be given anew.
SELECT n, afforded, refused_by, room FROM hold_anew_within_budgets(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: refusing_budgets
-- What to say of the budgets $1 that have no room.
SELECT id, key_id::text, model, period, unit, amount, over, now() AS now,
    budget_begins(period, (now() AT TIME ZONE 'UTC')::date) AS begins
FROM budgets WHERE id = ANY ($1::bigint[]);

-- name: renew
-- Lets the leases of these jobs ($1) under these fences ($2) go on for $5 seconds, of $3 output
-- tokens so far, and only those that are with the node $4 (not ''); answers with the ordinals of
-- those that there are not. One that somebody renews or closes right now is left to them, and one
-- that has most of its time yet isn't written.
WITH told AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::text[])
        WITH ORDINALITY AS t (job_id, fence, emitted, node, n)
), mine AS (
    SELECT t.n, t.emitted, l.job_id, l.fence, l.expires_at
    FROM told t JOIN leases l ON l.job_id = t.job_id AND l.fence = t.fence
    WHERE t.node IN ('', split_part(l.worker_address, '/', 1))
), free AS (
    SELECT l.job_id, m.emitted
    FROM mine m JOIN leases l ON l.job_id = m.job_id AND l.fence = m.fence
    WHERE m.expires_at < now() + 0.75 * $5::float8 * interval '1 second'
    FOR UPDATE OF l SKIP LOCKED
), renewed AS (
    UPDATE leases l
    SET expires_at = now() + $5::float8 * interval '1 second',
        emitted = greatest(l.emitted, f.emitted)
    FROM free f WHERE l.job_id = f.job_id
)
SELECT array_agg(t.n::integer) FROM told t WHERE t.n NOT IN (SELECT m.n FROM mine m);

-- name: sweep
-- Looks at up to $1 leases of $2 seconds that have run out, and expires their jobs; a job that
-- somebody settles right now, or a lease that somebody renews, is left to them. A lease that is of
-- no running job is deleted. Nothing is swept while the server is younger than a lease.
WITH due AS (
    SELECT l.job_id, l.fence FROM leases l
    WHERE l.expires_at <= now()
        AND pg_postmaster_start_time() <= now() - $2::float8 * interval '1 second'
    ORDER BY l.expires_at LIMIT $1
), locked AS (
    SELECT j.id, l.fence
    FROM due d JOIN jobs j ON j.id = d.job_id AND j.fence = d.fence
    JOIN leases l ON l.job_id = d.job_id AND l.fence = d.fence
    WHERE j.state = 'running' AND l.expires_at <= now()
    ORDER BY j.id
    FOR UPDATE OF j, l SKIP LOCKED
), expired AS (
    UPDATE jobs j SET state = 'settled', outcome = 'expired', settled_at = now()
    FROM locked k WHERE j.id = k.id
    RETURNING j.id, j.fence, j.budgets, j.held_micros, j.held_tokens
), freed AS (
    DELETE FROM leases l USING due d
    WHERE l.job_id = d.job_id AND l.fence = d.fence AND l.expires_at <= now()
        AND (EXISTS (SELECT FROM expired e WHERE e.id = d.job_id)
             OR NOT EXISTS (SELECT FROM jobs j WHERE j.id = d.job_id AND j.fence = d.fence
                 AND j.state = 'running'))
    RETURNING 1
), given_back AS (
    UPDATE budget_periods p SET reserved = greatest(0, p.reserved - s.held)
    FROM (
        SELECT u.period,
            sum(CASE b.unit WHEN 'micros' THEN e.held_micros ELSE e.held_tokens END) AS held
        FROM expired e CROSS JOIN LATERAL unnest(e.budgets) AS u (period)
        JOIN budget_periods q ON q.id = u.period JOIN budgets b ON b.id = q.budget_id
        GROUP BY u.period ORDER BY u.period
    ) s
    WHERE p.id = s.period
    RETURNING 1
)
SELECT (SELECT count(*) FROM due) AS due, (SELECT count(*) FROM expired) AS expired,
    (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM given_back) AS given_back;

-- name: only_one
-- Whether this connection is the one of the cluster that does the work $1, from now until it ends.
SELECT pg_try_advisory_lock($1) AS only_one;

-- name: prune_jobs
-- Deletes up to $3 jobs, and their attempts, with ids below $1 that were settled at least $2 seconds
-- ago; those that somebody takes up again right now are left to them.
WITH old AS (
    SELECT id FROM jobs
    WHERE id < $1 AND state = 'settled' AND settled_at <= now() - $2::float8 * interval '1 second'
    ORDER BY id LIMIT $3
    FOR UPDATE SKIP LOCKED
), tried AS (
    DELETE FROM attempts a USING old o WHERE a.job_id = o.id
), gone AS (
    DELETE FROM jobs j USING old o WHERE j.id = o.id RETURNING j.id
)
SELECT count(*) FROM gone;

-- name: drop_ledger
-- Drops the months of the ledger that ended at least $1 seconds ago; answers with their names.
SELECT ledger_drop_before(now() - $1::float8 * interval '1 second');

-- name: extend_ledger
-- Makes the ledger's months of now and of the next $1; answers with how many it made.
SELECT ledger_make_partitions($1);

-- name: fetch_answer
-- The answer that is kept of the job $1, of tenant $2.
SELECT bytes FROM answers WHERE job_id = $1 AND tenant_id = $2 AND expires_at > now();

-- name: bill_of_job
-- What the job $1, of tenant $2, was billed: the sums of its entries.
SELECT j.id::text AS job_id, j.entries, j.billed_prompt AS prompt_tokens,
    j.billed_cached AS cached_tokens, j.billed_reasoning AS reasoning_tokens,
    j.billed_output AS output_tokens, j.billed_micros AS micros,
    coalesce((SELECT p.currency FROM prices p WHERE p.version = j.price), '') AS currency
FROM jobs j WHERE j.id = $1 AND j.tenant_id = $2;

-- name: prune_answers
-- Deletes up to $1 answers that have expired; how many there were.
WITH old AS (
    SELECT job_id FROM answers WHERE expires_at <= now() ORDER BY expires_at LIMIT $1
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM answers a USING old o WHERE a.job_id = o.job_id RETURNING 1
)
SELECT count(*) FROM gone;

-- name: shed_answers
-- Deletes up to $2 answers, the oldest of tenants that have more than $1 bytes of them; how many
-- those were, and how many answers and bytes there were before.
WITH held AS (
    SELECT tenant_id, count(*) AS answers, sum(size) AS bytes FROM answers GROUP BY tenant_id
), over AS (
    SELECT a.job_id, sum(a.size) OVER (
        PARTITION BY a.tenant_id ORDER BY a.kept_at DESC, a.job_id
    ) AS newest
    FROM held h JOIN answers a ON a.tenant_id = h.tenant_id
    WHERE h.bytes > $1::bigint
), gone AS (
    DELETE FROM answers a
    USING (SELECT job_id FROM over WHERE newest > $1::bigint LIMIT $2) o
    WHERE a.job_id = o.job_id
    RETURNING a.size
)
SELECT (SELECT count(*) FROM gone) AS shed,
    (SELECT coalesce(sum(size), 0) FROM gone)::bigint AS shed_bytes,
    (SELECT coalesce(sum(answers), 0) FROM held)::bigint AS answers,
    (SELECT coalesce(sum(bytes), 0) FROM held)::bigint AS bytes;

-- name: forget_breakers
-- Forgets the words that new ones of $1 workers and $2 models take the place of; one without a model
-- covers all of its worker.
DELETE FROM breakers b USING unnest($1::text[], $2::text[]) AS s (worker_id, model_ref)
WHERE b.worker_id = s.worker_id AND s.model_ref IN ('', b.model_ref);

-- name: keep_breakers
-- Writes down what an operator said of breakers ($1 workers, $2 models, $3 modes). An automatic one
-- has a row only if it is a model's, and the word about its worker says otherwise.
WITH said AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS t (worker_id, model_ref, mode)
), whole AS (
    SELECT worker_id FROM breakers WHERE model_ref = ''
    UNION SELECT worker_id FROM said WHERE model_ref = '' AND mode <> 'automatic'
)
INSERT INTO breakers (worker_id, model_ref, mode)
SELECT worker_id, model_ref, mode FROM said
WHERE mode <> 'automatic' OR (model_ref <> '' AND worker_id IN (SELECT worker_id FROM whole))
ON CONFLICT (worker_id, model_ref) DO UPDATE SET mode = excluded.mode, at = excluded.at;

-- name: list_breakers
-- Up to $1 breakers that an operator has set.
SELECT worker_id, model_ref, mode FROM breakers ORDER BY worker_id, model_ref LIMIT $1;

-- name: list_leases
-- The leases with their jobs, at most $1 of them, those first that end first; `total` counts all.
SELECT l.job_id::text, j.tenant_id, j.model_ref, l.worker_id, l.fence, j.attempt,
    extract(epoch FROM now() - j.created_at)::float8 AS age_s,
    extract(epoch FROM l.expires_at - now())::float8 AS ends_in_s, count(*) OVER () AS total
FROM leases l JOIN jobs j ON j.id = l.job_id
ORDER BY l.expires_at LIMIT $1;

-- name: trace_job
-- The jobs of these ids, or of this retry token with any tenant, with lease and ledger.
SELECT j.id::text AS job, j.tenant_id AS tenant, j.retry_token, j.model_ref AS model, j.state,
    j.outcome, j.attempt AS attempts, j.fence, j.worker_id AS worker, j.worker_address,
    j.prompt_tokens, j.completion_tokens, j.finish, j.error_code, j.created_at, j.settled_at,
    l.worker_id AS lease_worker, l.fence AS lease_fence, l.expires_at AS lease_ends_at,
    CASE WHEN j.entries > 0 THEN j.billed_prompt + j.billed_output END AS billed_tokens,
    (SELECT max(g.at) FROM ledger g WHERE g.job_id = j.id) AS billed_at
FROM jobs j LEFT JOIN leases l ON l.job_id = j.id
WHERE j.id IN (
    SELECT unnest($1::text[])::uuid
    UNION
    SELECT k.id FROM tenants t
    CROSS JOIN unnest('{"",chat,completions,embeddings,infer}'::text[]) AS e (endpoint)
    JOIN jobs k ON k.tenant_id = t.id AND k.endpoint = e.endpoint AND k.retry_token = $2
)
ORDER BY j.created_at DESC LIMIT 20;

-- name: usage_of_tenant
-- What a tenant is billed for since a time: jobs, prompt tokens, completion tokens.
SELECT count(*) FILTER (WHERE kind = 'charge') AS jobs,
    coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
    coalesce(sum(output_tokens), 0) AS completion_tokens
FROM ledger WHERE tenant_id = $1 AND at >= $2;

-- name: add_tenant
-- Makes sure that a tenant exists.
INSERT INTO tenants (id) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: tenant_limits
-- The limits of one tenant ($1), or of all that there are; null is the configuration's default.
SELECT id AS tenant_id, requests_per_minute, tokens_per_minute, max_concurrency
FROM tenants WHERE $1::text IS NULL OR id = $1 ORDER BY id;

-- name: show_limits
-- The limits of the tenant $1 (all: ''), from after the name $2 on, at most $3.
SELECT id AS tenant_id, requests_per_minute, tokens_per_minute, max_concurrency
FROM tenants WHERE $1 IN ('', id) AND id > $2 ORDER BY id LIMIT $3;

-- name: change_limits
-- Sets the limits of a tenant ($1) that are not null, or with $5 all three; answers with what they
-- are then, and nothing where there is no such tenant.
UPDATE tenants SET
    requests_per_minute = CASE WHEN $5 THEN $2 ELSE COALESCE($2, requests_per_minute) END,
    tokens_per_minute = CASE WHEN $5 THEN $3 ELSE COALESCE($3, tokens_per_minute) END,
    max_concurrency = CASE WHEN $5 THEN $4 ELSE COALESCE($4, max_concurrency) END
WHERE id = $1
RETURNING id AS tenant_id, requests_per_minute, tokens_per_minute, max_concurrency;

-- name: limit_tenant
-- Sets the three limits of a tenant, making it if need be; null is the default.
INSERT INTO tenants (id, requests_per_minute, tokens_per_minute, max_concurrency)
VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE
SET requests_per_minute = excluded.requests_per_minute,
    tokens_per_minute = excluded.tokens_per_minute, max_concurrency = excluded.max_concurrency;

-- name: add_key
-- Stores the hash of a new key.
INSERT INTO api_keys (id, tenant_id, hash, prefix, name, operator)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6)
RETURNING created_at;

-- name: find_key
-- Whose key this is, and the limits of that tenant; nothing when it is unknown or revoked.
SELECT k.id::text AS key_id, k.tenant_id, t.requests_per_minute, t.tokens_per_minute,
    t.max_concurrency, k.operator
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.hash = $1 AND k.revoked_at IS NULL;

-- name: list_keys
-- All keys, or those of one tenant, oldest first.
SELECT id::text, tenant_id, prefix, name, created_at, revoked_at, operator
FROM api_keys WHERE $1::text IS NULL OR tenant_id = $1
ORDER BY created_at, id;

-- name: revoke_key
-- Ends a key, named by its id or its prefix; a trigger tells those who cached it.
UPDATE api_keys SET revoked_at = now()
WHERE (id::text = $1 OR prefix = $1) AND revoked_at IS NULL
RETURNING id::text;

-- name: lock_models
-- Lets one registry at a time change the catalog, until the end of the transaction.
SELECT pg_advisory_xact_lock($1);

-- name: hold_artifacts
-- Keeps collections of unused artifacts away until the end of the transaction; false if one runs.
SELECT pg_try_advisory_xact_lock_shared($1) AS held;

-- name: collect_artifacts
-- Keeps registrations of artifacts away until the end of the transaction; false if one is made.
SELECT pg_try_advisory_xact_lock($1) AS held;

-- name: used_sources
-- What versions are made of that aren't retired, or were less than $1 seconds ago.
SELECT source FROM models
WHERE stage <> 'retired' OR stage_at > now() - $1::float8 * interval '1 second'
UNION
SELECT adapter FROM models
WHERE stage <> 'retired' OR stage_at > now() - $1::float8 * interval '1 second';

-- name: put_model
-- Adds a version of a model to the catalog, or writes down how it is now; its age stays.
INSERT INTO models (name, version, engine, source, context, dtype, created_at, adapter, gpu_class,
                    memory_mib, policy, origin, stage, stage_at,
                    special_tokens_in_text)
VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7::bigint), $8, $9, $10, $11::text::jsonb, $12, $13,
        to_timestamp($14::float8), $15)
ON CONFLICT (name, version) DO UPDATE
SET engine = excluded.engine, source = excluded.source, context = excluded.context,
    dtype = excluded.dtype, adapter = excluded.adapter, gpu_class = excluded.gpu_class,
    memory_mib = excluded.memory_mib, policy = excluded.policy, origin = excluded.origin,
    stage = excluded.stage, stage_at = excluded.stage_at,
    special_tokens_in_text = excluded.special_tokens_in_text;

-- name: add_model_change
-- Adds a line to the history of a version.
INSERT INTO model_changes (name, version, what, before, after, at, by, note)
VALUES ($1, $2, $3, $4, $5, to_timestamp($6::float8), $7, $8);

-- name: list_models
-- The versions that aren't retired, and those of the refs $1, in the order of names and versions.
SELECT name, version, engine, source, context, dtype,
    extract(epoch FROM created_at)::bigint AS created_s, adapter, gpu_class, memory_mib,
    policy::text AS policy, origin, stage, extract(epoch FROM stage_at)::float8 AS stage_s,
    special_tokens_in_text
FROM models WHERE stage <> 'retired' OR name || '@' || version = ANY($1::text[])
ORDER BY name, version;

-- name: show_models
-- The versions of $1 (a name, a ref, or all of ''), the retired ones last, at most $2 of them.
SELECT name, version, engine, source, context, dtype,
    extract(epoch FROM created_at)::bigint AS created_s, adapter, gpu_class, memory_mib,
    policy::text AS policy, origin, stage, extract(epoch FROM stage_at)::float8 AS stage_s,
    special_tokens_in_text
FROM models WHERE $1 IN ('', name, name || '@' || version)
ORDER BY stage = 'retired', CASE WHEN stage = 'retired' THEN stage_at END DESC, name, version
LIMIT $2;

-- name: show_model_changes
-- The newest $2 changes of $1 (a name, a ref, or all of ''), from after $3 on, newest first.
SELECT name || '@' || version AS ref, what, before, after,
    extract(epoch FROM at)::float8 AS at_s, by, note
FROM model_changes WHERE number > $3 AND $1 IN ('', name, name || '@' || version)
ORDER BY number DESC LIMIT $2;

-- name: model_revision
-- The number of the last change of the catalog.
SELECT coalesce(max(number), 0) AS revision FROM model_changes;

-- name: set_budget
-- Makes a budget of the tenant $1, for its API key $2 (id or prefix; '' for all), model $3, period $4
-- and unit $5, or changes the living one: amount $6, shares $7, status $8. Nothing if the tenant has
-- no such key.
INSERT INTO budgets (tenant_id, key_id, model, period, unit, amount, warn, over)
SELECT $1, k.id, $3, $4, $5, $6, $7, $8
FROM (
    SELECT id FROM api_keys WHERE tenant_id = $1 AND $2 <> '' AND (id::text = $2 OR prefix = $2)
    UNION ALL
    SELECT NULL WHERE $2 = ''
) k
LIMIT 1
ON CONFLICT (tenant_id, coalesce(key_id, '00000000-0000-0000-0000-000000000000'), model, period, unit)
    WHERE removed_at IS NULL
DO UPDATE SET amount = excluded.amount, warn = excluded.warn, over = excluded.over
RETURNING id;

-- name: remove_budget
-- Ends the budget $1.
UPDATE budgets SET removed_at = now() WHERE id = $1 AND removed_at IS NULL RETURNING id;

-- name: show_budgets
-- The living budgets of the tenant $1 (all: ''), or the one with the id $2 (all: 0), from after the
-- id $3 on, at most $4, as they stand in their present periods.
SELECT b.id, b.tenant_id, b.key_id::text, b.model, b.period, b.unit, b.amount, b.warn, b.over,
    n.begins, coalesce(p.spent, 0) AS spent, coalesce(p.reserved, 0) AS reserved,
    coalesce(p.refused, 0) AS refused
FROM budgets b
CROSS JOIN LATERAL (
    SELECT budget_begins(b.period, (now() AT TIME ZONE 'UTC')::date) AS begins
) n
LEFT JOIN budget_periods p ON p.budget_id = b.id AND p.begins = n.begins
WHERE b.removed_at IS NULL AND $1 IN ('', b.tenant_id) AND $2::bigint IN (0, b.id) AND b.id > $3
ORDER BY b.id LIMIT $4;

-- name: show_budget_events
-- The newest $2 events of the budget $1, newest first.
SELECT p.begins, e.share, e.spent, e.amount, e.at
FROM budget_events e JOIN budget_periods p ON p.id = e.period_id
WHERE e.budget_id = $1 ORDER BY e.number DESC LIMIT $2;

-- name: tell_budget_events
-- Takes up to $1 events that nobody has told of yet.
UPDATE budget_events e SET told = true
FROM (
    SELECT number FROM budget_events WHERE NOT told ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED
) n, budgets b, budget_periods p
WHERE e.number = n.number AND b.id = e.budget_id AND p.id = e.period_id
RETURNING e.budget_id, b.tenant_id, b.model, b.period, b.unit, p.begins, e.share, e.spent, e.amount;
