"""Rows of a ledger, written as the statement of a round writes them, or against all rules."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import asyncpg

from actors.core.ids import job_id

JOB = """
    INSERT INTO jobs (id, tenant_id, endpoint, retry_token, fingerprint, model_ref, worker_id,
        worker_address, state, outcome, settled_at, price, entries, billed_prompt, billed_output,
        billed_micros)
    VALUES ($1::text::uuid, $2, 'chat', $1, 'f', $3, 'w', 'n/w/1', 'settled', 'completed', now(),
        $4, 1, $5, $6, $7)
"""
CHARGE = """
    INSERT INTO ledger (job_id, number, kind, tenant_id, key_id, endpoint, model_ref, attempt,
        outcome, prompt_tokens, cached_tokens, reasoning_tokens, output_tokens, micros, price,
        currency, note, made_by, at)
    VALUES ($1::text::uuid, $2, $3, $4, $5, 'chat', $6, 1, 'completed', $7, $8, $9, $10, $11, $12,
        $13, $14, '', coalesce($15, now()))
    RETURNING seq
"""


async def charged(
    connection: asyncpg.Connection,
    *,
    tenant: str = "acme",
    model: str = "smollm2@1",
    prompt: int = 10,
    output: int = 20,
    micros: int = 30,
    price: int | None = None,
    key: Any = None,
    at: datetime | None = None,
    number: int = 1,
    job: str = "",
    note: str = "",
) -> str:
    """A settled job with its charge; or one more entry of `job`."""
    made = job or job_id(time.time_ns)
    async with connection.transaction():
        if not job:
            await connection.execute(JOB, made, tenant, model, price, prompt, output, micros)
        await connection.fetchval(
            CHARGE,
            made,
            number,
            "charge" if number == 1 else "correction",
            tenant,
            key,
            model,
            prompt,
            prompt // 2,
            output // 3,
            output,
            micros,
            price,
            "EUR" if micros else "",
            note,
            at,
        )
    return made


async def tamper(connection: asyncpg.Connection, statement: str, *args: Any) -> None:
    """As who owns the server may do it, past all triggers."""
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        assert await connection.execute(statement, *args) not in ("UPDATE 0", "DELETE 0")
