-- Leaves of sealed blocks, and refunds.

-- Whoever seals asks for what is new: page ranges must be summarised soon after they were filled.
DROP INDEX ledger_seq_brin;
CREATE INDEX ledger_seq_brin ON ledger USING brin (seq)
    WITH (autosummarize = on, pages_per_range = 32);

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
