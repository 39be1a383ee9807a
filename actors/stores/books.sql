-- Statements on prices, sealed blocks and bills, as in queries.sql.

-- name: lock_prices
-- Lets one writer at a time add prices, until the end of the transaction.
SELECT pg_advisory_xact_lock($1);

-- name: list_prices
-- The prices in force or to come, and those that were in force a day ago, for clocks differ; at
-- most $1.
SELECT version, model, currency, prompt, cached, reasoning, output, request,
    extract(epoch FROM from_at)::float8 AS from_at
FROM prices p
WHERE from_at > now() - interval '1 day' OR version = (
    SELECT q.version FROM prices q
    WHERE q.model = p.model AND q.from_at <= now() - interval '1 day'
    ORDER BY q.from_at DESC, q.version DESC LIMIT 1
)
ORDER BY version DESC LIMIT $1;

-- name: show_prices
-- All versions of the price of $1 (a model, or all of ''), the newest first, at most $2.
SELECT version, model, currency, prompt, cached, reasoning, output, request, from_at, made_at,
    made_by
FROM prices WHERE $1 IN ('', model) ORDER BY version DESC LIMIT $2;

-- name: configured_prices
-- The last price that a configuration gave each model, for each time that it named.
SELECT DISTINCT ON (model, since) model, currency, prompt, cached, reasoning, output, request,
    CASE WHEN from_at <> made_at THEN from_at END AS since
FROM prices WHERE made_by = $1 ORDER BY model, since, version DESC;

-- name: add_price
-- Adds a version of the price of a model, in force from $8 on, or from now.
INSERT INTO prices (model, currency, prompt, cached, reasoning, output, request, from_at, made_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8::timestamptz, now()), $9)
RETURNING version, from_at;

-- name: last_block
-- The block that was sealed last.
SELECT number, from_seq, to_seq, entries, first_at, last_at, root, previous, sealed_at, hash
FROM ledger_blocks ORDER BY number DESC LIMIT 1;

-- name: mark_entries
-- The highest entry above $1 that can be seen, and the transaction that will begin next.
SELECT coalesce(max(seq), $1) AS to_seq, pg_snapshot_xmax(pg_current_snapshot())::text AS next
FROM ledger WHERE seq > $1;

-- name: are_over
-- Whether all transactions before $1 are over.
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8;

-- name: entries_between
-- The entries above $1 and up to $2, in order.
SELECT seq, at, job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt, outcome,
    prompt_tokens, cached_tokens, reasoning_tokens, output_tokens, micros, price, currency, note,
    made_by
FROM ledger WHERE seq > $1 AND seq <= $2 ORDER BY seq;

-- name: next_entry
-- The lowest entry above $1 and up to $2.
SELECT min(seq) FROM ledger WHERE seq > $1 AND seq <= $2;

-- name: add_block
-- Adds a block to the chain.
INSERT INTO ledger_blocks (number, from_seq, to_seq, entries, first_at, last_at, root, previous,
                           sealed_at, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: add_leaves
-- Keeps the leaves of a block.
INSERT INTO ledger_leaves (block, leaves) VALUES ($1, $2);

-- name: drop_leaves
-- Forgets the leaves of blocks whose month was dropped from the ledger, at most $1 of them.
DELETE FROM ledger_leaves l USING (
    SELECT block FROM ledger_leaves ORDER BY block LIMIT $1
) o JOIN ledger_blocks b ON b.number = o.block
WHERE l.block = o.block AND b.last_at < (
    SELECT min(to_date(right(c.relname, 7), 'YYYY_MM'))::timestamp AT TIME ZONE 'UTC'
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'ledger'::regclass
);

-- name: entries_of_job
-- The entries of a job.
SELECT seq, at, job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt, outcome,
    prompt_tokens, cached_tokens, reasoning_tokens, output_tokens, micros, price, currency, note,
    made_by
FROM ledger WHERE job_id = $1 ORDER BY number, at;

-- name: block_of_entry
-- The block that holds entry $1, which was written at $2.
SELECT number FROM ledger_blocks
WHERE from_seq <= $1 AND to_seq >= $1
    AND date_trunc('month', first_at, 'UTC') = date_trunc('month', $2::timestamptz, 'UTC')
ORDER BY to_seq, number LIMIT 1;

-- name: blocks_between
-- The blocks from number $1 to $2.
SELECT number, from_seq, to_seq, entries, first_at, last_at, root, previous, sealed_at, hash
FROM ledger_blocks WHERE number BETWEEN $1 AND $2 ORDER BY number;

-- name: leaves_of_block
-- The leaves that were kept of a block.
SELECT leaves FROM ledger_leaves WHERE block = $1;

-- name: blocks_of_month
-- The blocks with entries from $1 to before $2, each with its leaves.
SELECT number, from_seq, to_seq, entries, first_at, last_at, root, previous, sealed_at, hash, leaves
FROM ledger_blocks LEFT JOIN ledger_leaves ON block = number
WHERE first_at >= $1 AND first_at < $2 ORDER BY number;

-- name: entries_of_month
-- The entries from $1 to before $2, in the order of their numbers.
SELECT seq, at, job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt, outcome,
    prompt_tokens, cached_tokens, reasoning_tokens, output_tokens, micros, price, currency, note,
    made_by
FROM ledger WHERE at >= $1 AND at < $2 ORDER BY seq;

-- name: ledger_span
-- The first and the last time of which there is an entry or a block.
SELECT least((SELECT min(at) FROM ledger), (SELECT min(first_at) FROM ledger_blocks)) AS first_at,
    greatest((SELECT max(at) FROM ledger), (SELECT max(last_at) FROM ledger_blocks)) AS last_at;

-- name: refund
-- Gives back so much of the bill of a job ($1), of which $2 entries are known.
SELECT ledger_refund($1, $2, $3, $4, $5, $6, $7, $8, $9) AS number;

-- name: price_of_version
-- One version of a price.
SELECT version, model, currency, prompt, cached, reasoning, output, request,
    extract(epoch FROM from_at)::float8 AS from_at
FROM prices WHERE version = $1;

-- name: statement
-- What tenant $1 is billed for from $2 to before $3, by model, key and day of UTC.
SELECT l.model_ref, l.key_id::text AS key_id, coalesce(k.name, '') AS key_name,
    (l.at AT TIME ZONE 'UTC')::date AS day, l.currency,
    count(*) FILTER (WHERE l.number = 1) AS jobs,
    sum(l.prompt_tokens)::bigint AS prompt_tokens, sum(l.cached_tokens)::bigint AS cached_tokens,
    sum(l.reasoning_tokens)::bigint AS reasoning_tokens,
    sum(l.output_tokens)::bigint AS output_tokens, sum(l.micros)::bigint AS micros
FROM ledger l LEFT JOIN api_keys k ON k.id = l.key_id
WHERE l.tenant_id = $1 AND l.at >= $2 AND l.at < $3
GROUP BY l.model_ref, l.key_id, k.name, day, l.currency
ORDER BY day, l.model_ref, key_name, key_id, l.currency;
