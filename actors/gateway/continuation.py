"""The continuation of a request that ended badly, when its idempotency key is sent again."""

from __future__ import annotations

from actors.gateway.request_session import RequestSession


def go_on(session: RequestSession, ended: RequestSession) -> None:
    """Begins `session` with what was said to the same request before, if it is the version that
    said it; the journal of `ended` stays as it is, for whoever reads it yet."""
    journal = ended.journal
    if journal.prompt_ids and ended.model_ref == session.model_ref:
        session.journal = journal.copy()
        session.past.had = journal.tokens
