-- Every statement that Tether sends, with a name and a sentence.
-- Lock order, everywhere: jobs before leases before ledger.

-- name: settle_and_reserve
-- One round: gives each new job a row and a lease, and closes each told job whose fence is the
-- latest; answers with the ordinals of the reserves ($1–$10) and settles ($11–$19) that took
-- effect. An answer that was delivered is closed under an older fence, too, and after a bad end.
-- Who settles from another node (not '') has the job there, or had it there under that older fence.
WITH asked AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[],
        $8::float8[], $9::integer[], $10::bigint[]
    ) WITH ORDINALITY AS t (job_id, tenant_id, retry_token, fingerprint, model_ref, worker_id,
                            worker_address, seconds, attempt, claim, n)
), opened AS (
    INSERT INTO jobs (id, tenant_id, retry_token, fingerprint, model_ref, worker_id,
                      worker_address, attempt, claim)
    SELECT job_id, tenant_id, retry_token, fingerprint, model_ref, worker_id, worker_address,
        attempt, claim
    FROM asked
    ON CONFLICT DO NOTHING
    RETURNING id, retry_token
), leased AS (
    INSERT INTO leases (job_id, worker_id, worker_address, fence, expires_at)
    SELECT a.job_id, a.worker_id, a.worker_address, 1, now() + a.seconds * interval '1 second'
    FROM opened o JOIN asked a ON a.job_id = o.id AND a.retry_token = o.retry_token
), told AS (
    SELECT * FROM unnest(
        $11::uuid[], $12::bigint[], $13::text[], $14::integer[], $15::integer[], $16::text[],
        $17::text[], $18::boolean[], $19::text[]
    ) WITH ORDINALITY AS t (job_id, fence, outcome, prompt_tokens, completion_tokens, finish,
                            error_code, delivered, node, n)
), closed AS (
    UPDATE jobs j
    SET state = 'settled', outcome = t.outcome, prompt_tokens = t.prompt_tokens,
        completion_tokens = t.completion_tokens, finish = t.finish, error_code = t.error_code,
        settled_at = now()
    FROM told t
    WHERE j.id = t.job_id
        AND (j.fence = t.fence AND j.state = 'running'
             OR t.delivered AND t.fence <= j.fence AND j.outcome IS DISTINCT FROM 'completed')
        AND (t.node IN ('', split_part(j.worker_address, '/', 1))
             OR t.fence < j.fence AND t.node = ANY (j.former_nodes))
    RETURNING t.n, j.id, j.tenant_id, j.model_ref, j.outcome, j.prompt_tokens, j.completion_tokens
), freed AS (
    DELETE FROM leases l USING closed c WHERE l.job_id = c.id
), billed AS (
    -- A row exists only where a cancelled job was taken up again: the last usage counts all.
    INSERT INTO ledger (job_id, tenant_id, model_ref, prompt_tokens, completion_tokens)
    SELECT id, tenant_id, model_ref, prompt_tokens, completion_tokens
    FROM closed WHERE outcome IN ('completed', 'cancelled')
    ON CONFLICT (job_id) DO UPDATE
    SET prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
        model_ref = excluded.model_ref, at = excluded.at
    -- An answer that is said once more, and broken off, doesn't make the bill for all of it less.
    WHERE excluded.completion_tokens >= ledger.completion_tokens
)
SELECT
    (SELECT array_agg(a.n::integer) FROM opened o
     JOIN asked a ON a.job_id = o.id AND a.retry_token = o.retry_token) AS opened,
    (SELECT array_agg(c.n::integer) FROM closed c) AS closed;

-- name: contest
-- Says what the job is whose retry token a reserve found taken (ours, running, completed, of
-- another body, or free for who names no worker and only asks); gives the job away anew where it
-- ended badly or its answer is lost, or moves to another worker for who holds its claim; and
-- leaves the claim to who is led to it ("led").
WITH asked AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::text[],
        $8::float8[], $9::integer[], $10::bigint[], $11::bigint[], $12::bigint[]
    ) WITH ORDINALITY AS t (job_id, tenant_id, retry_token, fingerprint, model_ref, worker_id,
                            worker_address, seconds, attempt, claim, holds, lost, n)
), held AS (
    SELECT a.*, j.id AS held_id, j.worker_id AS held_worker, j.worker_address AS held_address,
        j.fence AS held_fence, j.claim AS held_claim, j.outcome AS held_outcome,
        CASE
            WHEN j.fingerprint <> a.fingerprint THEN 'conflict'
            WHEN j.outcome = 'completed' AND (a.lost <> j.fence OR a.worker_id = '')
                THEN 'completed'
            WHEN a.worker_id = '' AND (j.state = 'settled' OR j.id = a.job_id) THEN 'free'
            WHEN j.state = 'settled' THEN 'give'
            WHEN a.claim = 0 THEN CASE
                WHEN j.id <> a.job_id OR a.attempt < j.attempt THEN 'running'
                WHEN a.attempt > j.attempt THEN 'give'
                ELSE 'ours'
            END
            WHEN j.claim = a.claim AND j.id = a.job_id THEN 'ours'
            WHEN j.id = a.job_id THEN
                CASE WHEN j.claim = a.holds AND a.holds <> 0 THEN 'give' ELSE 'running' END
            WHEN a.holds = 0 THEN 'led'
            ELSE 'running'
        END AS verdict
    FROM asked a JOIN jobs j ON j.tenant_id = a.tenant_id AND j.retry_token = a.retry_token
    ORDER BY j.id
    FOR UPDATE OF j
), given AS (
    UPDATE jobs j
    SET id = h.job_id, state = 'running', outcome = NULL, settled_at = NULL, finish = '',
        error_code = '', prompt_tokens = 0, completion_tokens = 0, model_ref = h.model_ref,
        attempt = h.attempt, claim = h.claim, fence = j.fence + 1, worker_id = h.worker_id,
        worker_address = h.worker_address,
        former_nodes = array_remove(j.former_nodes, split_part(j.worker_address, '/', 1))
            || split_part(j.worker_address, '/', 1)
    FROM held h
    WHERE j.id = h.held_id AND j.fence = h.held_fence AND h.verdict = 'give'
        -- A cancelled or completed job has its row in the ledger. One not seen yet was written
        -- while this statement waited for the job: then nothing is given, and the next try sees it.
        AND (coalesce(h.held_outcome, '') NOT IN ('cancelled', 'completed')
             OR EXISTS (SELECT FROM ledger l WHERE l.job_id = h.held_id))
    RETURNING h.n, h.held_id, j.id, j.fence, h.worker_id, h.worker_address, h.seconds
), led AS (
    UPDATE jobs j SET claim = h.claim
    FROM held h WHERE j.id = h.held_id AND j.fence = h.held_fence AND h.verdict = 'led'
), rebilled AS (
    -- What was billed so far goes along, so that one retry token is one row, whatever its job's id.
    UPDATE ledger l SET job_id = g.id
    FROM given g WHERE l.job_id = g.held_id AND g.id <> g.held_id
), leased AS (
    INSERT INTO leases (job_id, worker_id, worker_address, fence, expires_at)
    SELECT id, worker_id, worker_address, fence, now() + seconds * interval '1 second' FROM given
    ON CONFLICT (job_id) DO UPDATE
    SET worker_id = excluded.worker_id, worker_address = excluded.worker_address,
        fence = excluded.fence, expires_at = excluded.expires_at
)
SELECT h.n::integer AS n, h.verdict, h.held_id, h.held_worker, h.held_address, h.held_fence,
    h.held_claim, g.fence AS given_fence
FROM held h LEFT JOIN given g ON g.n = h.n;

-- name: sweep
-- Closes up to $1 jobs whose lease has run out; a job that somebody is settling right now is left
-- to them.
WITH due AS (
    SELECT job_id, fence FROM leases WHERE expires_at <= now() ORDER BY expires_at LIMIT $1
), locked AS (
    SELECT j.id FROM due d JOIN jobs j ON j.id = d.job_id AND j.fence = d.fence
    WHERE j.state = 'running'
    FOR UPDATE OF j SKIP LOCKED
), expired AS (
    UPDATE jobs j SET state = 'settled', outcome = 'expired', settled_at = now()
    FROM locked WHERE j.id = locked.id
    RETURNING j.id
), freed AS (
    DELETE FROM leases l USING expired e WHERE l.job_id = e.id
)
SELECT count(*) FROM expired;

-- name: prune_jobs
-- Deletes up to $3 jobs with ids below $1 that were settled at least $2 seconds ago; those that
-- somebody takes up again right now are left to them.
WITH old AS (
    SELECT id FROM jobs
    WHERE id < $1 AND state = 'settled' AND settled_at <= now() - $2::float8 * interval '1 second'
    ORDER BY id LIMIT $3
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM jobs j USING old o WHERE j.id = o.id RETURNING j.id
)
SELECT count(*) FROM gone;

-- name: prune_ledger
-- Deletes up to $3 rows of the ledger with ids below $1 that were written at least $2 seconds ago.
WITH old AS (
    SELECT job_id FROM ledger
    WHERE job_id < $1 AND at <= now() - $2::float8 * interval '1 second'
    ORDER BY job_id LIMIT $3
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM ledger l USING old o WHERE l.job_id = o.job_id RETURNING l.job_id
)
SELECT count(*) FROM gone;

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
    g.prompt_tokens + g.completion_tokens AS billed_tokens, g.at AS billed_at
FROM jobs j LEFT JOIN leases l ON l.job_id = j.id LEFT JOIN ledger g ON g.job_id = j.id
WHERE j.id IN (
    SELECT unnest($1::text[])::uuid
    UNION
    SELECT k.id FROM tenants t JOIN jobs k ON k.tenant_id = t.id AND k.retry_token = $2
)
ORDER BY j.created_at DESC LIMIT 20;

-- name: usage_of_tenant
-- What a tenant is billed for since a time: jobs, prompt tokens, completion tokens.
SELECT count(*) AS jobs, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
    coalesce(sum(completion_tokens), 0) AS completion_tokens
FROM ledger WHERE tenant_id = $1 AND at >= $2;

-- name: add_tenant
-- Makes sure that a tenant exists.
INSERT INTO tenants (id) VALUES ($1) ON CONFLICT DO NOTHING;

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
