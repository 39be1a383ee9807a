"""The messages of one request, in the order in which they are sent.

::

    front door ── Infer ──▶ gateway ── Place ──▶ scheduler ── Reserve ──▶ reservation
         ▲                    │  ▲                  │  ▲                      │
         │                    │  └──── Placed ──────┘  └────── Reserved ──────┘
         └─ Chunk… Completed ─┤
                              └─ Run ─▶ worker ── Settle ──▶ reservation
                                 ▲         │
                                 └─ Chunk… Completed

`Infer`, `Run` and `Attach` open streams, `Finished` is told, the others are asked. Whatever goes
wrong is raised as a `supervision.errors.TetherError` and crosses the wire as its code.

A *job* is a request as the database has it, billed once; its *lease* says which worker has it, and
until when. The *retry token* makes a request that comes twice one job. The *fencing token* grows
each time the job is given to a worker, so that a late one can't close it. The *claim token* says
which gateway may have it moved to another worker. Worker and gateway each keep a *journal* of what
was said.

`seq` is the number of output tokens before a chunk, so a stream can be taken up again at
any token, whatever the chunks were. Durations are seconds that remain, never a clock.

Pure.
"""

from __future__ import annotations

from enum import StrEnum

from actors.contracts.catalog import Slo
from actors.contracts.limits import LimitState, Maximum
from supervision.contracts.contract import Contract, Value


class Finish(StrEnum):
    """Why an answer ended well."""

    STOP = "stop"  # the model ended its turn, or a stop string was met
    LENGTH = "length"  # max_tokens or the model's context was reached


class Outcome(StrEnum):
    """How a job ended, for good."""

    COMPLETED = "completed"  # answered in full; billed
    CANCELLED = "cancelled"  # the client left; what was computed is billed
    FAILED = "failed"  # an error the client has seen; not billed
    EXPIRED = "expired"  # its lease ran out and nobody settled it; not billed


class JobState(StrEnum):
    """What a retry token stands for, as whoever asks for it is told."""

    FREE = "free"  # there is no job; nothing was reserved, for the ask named no worker
    NEW = "new"  # the asker's own job, reserved by this very ask: `Run` it
    RUNNING = "running"  # it runs already, and not for this ask: `Attach` to it
    COMPLETED = "completed"  # answered in full; its worker may hold the answer still: `Attach`


class Message(Value, frozen=True):
    """One turn of a conversation. `role` is system, user, assistant or tool."""

    role: str
    content: str


class ChatInput(Value, tag="chat", frozen=True):
    """A conversation, still to be put through the model's chat template."""

    messages: tuple[Message, ...]


class TextInput(Value, tag="text", frozen=True):
    """A raw prompt, tokenized as it is."""

    prompt: str


class EmbeddingInput(Value, tag="embedding", frozen=True):
    """Texts to be turned into vectors. The answer's text is the base64 of them all, one after
    the other, as little-endian float32; it has no output tokens."""

    texts: tuple[str, ...]


Input = ChatInput | TextInput | EmbeddingInput


class Sampling(Value, frozen=True):
    """How to draw tokens. `temperature` 0 is greedy. The gateway draws a missing seed once,
    so that an answer can be continued elsewhere."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Usage(Value, frozen=True):
    """Tokens of one answer. Cached ones are part of the prompt, reasoning ones of the completion; 0
    where the engine doesn't tell."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class JobKey(Value, frozen=True):
    """What names a job, the same from the gateway to the worker.

    `job_id` is the one that its gateway drew for it, until it is told that of the job that
    (`tenant_id`, `endpoint`, `retry_token`) stands for already; a job never changes its id.
    `fingerprint` is the digest of the request's body, `model_ref` the `name@version` that answers.
    `endpoint` is chat, completions, embeddings or infer, `key_id` that of the API key which asks
    (empty: unknown). `keep`: the client gave the retry token, so the finished answer is kept.
    """

    job_id: str
    tenant_id: str
    retry_token: str
    fingerprint: bytes
    model_ref: str
    endpoint: str = ""
    key_id: str = ""
    keep: bool = False


class Ownership(Value, frozen=True):
    """What whoever asks for a job may do with it: all that decides whether it is moved.

    `attempt` counts from 1. `claim_token` is a number that whoever asks draws anew for each ask,
    and the job keeps that of the last one who was given it or led to it. `held_claim_token` is the
    last claim that the asker has drawn for this job, or was told; 0 if there is none. A running job
    moves to another worker, under a new fencing token, only for who holds its claim: an ask that
    comes late, from somebody who is gone, can't take it from those who read it. Without a claim (0)
    a higher `attempt` of the same job moves it.

    `lost_fencing_token` is that of an answer that was completed, and is lost with all who held it
    before its client had read all of it: such a job is given anew. It has its one bill already. 0:
    none was lost.
    """

    attempt: int = 1
    claim_token: int = 0
    held_claim_token: int = 0
    lost_fencing_token: int = 0


class Assignment(Value, frozen=True):
    """Which worker a job is with, and by which tokens: what reservation says of it, passed on to
    the gateway as it is.

    `fencing_token` grows each time that the job is given away; a `Settle` under an older one
    changes nothing, and 0 is none (`state` free). `claim_token` is that of the job now: the
    asker's, or one that it may hold from here on. `job_id` is that of the retry token's job, which
    may be older than the ask. `max_tokens` is where the answer is to end, for no more was reserved
    of a budget; 0: as asked.
    """

    job_id: str
    worker_id: str
    worker_address: str
    fencing_token: int
    state: JobState = JobState.NEW
    claim_token: int = 0
    max_tokens: int = 0


class Infer(Contract, frozen=True):
    """Front door → gateway, opens a stream of `Chunk`s closed by `Completed`.

    `model_ref` is `name` or `name@version`. `retry_token` is the client's Idempotency-Key or
    one made up for this request; `explicit_token` tells which. `fingerprint` is a digest of
    the body: the same token with another body is refused. `is_resume` is set, and `from_seq`
    perhaps not 0, when the front door takes up a stream whose gateway was lost. With `stream`
    false all of the answer comes in one `Completed`. `endpoint`: see `JobKey`. `max_tokens_given`:
    the client has said `max_tokens` itself. Without `join` a request whose retry token's job runs
    is refused, in place of reading along.
    """

    correlation_id: str
    credential: str
    model_ref: str
    input: Input
    sampling: Sampling
    retry_token: str
    explicit_token: bool = False
    fingerprint: bytes = b""
    deadline_s: float = 120.0
    stream: bool = True
    from_seq: int = 0
    traceparent: str = ""
    is_resume: bool = False
    endpoint: str = ""
    max_tokens_given: bool = True
    join: bool = True


class Chunk(Contract, frozen=True):
    """Some output tokens and the text they added (which may be empty: half a character, or
    the beginning of a stop string). `prompt_ids` comes with the first chunk of a run only. What a
    gateway says first carries the tenant's `limits`, and whether it is `replayed`: an answer that
    was kept, and isn't computed now."""

    seq: int
    token_ids: tuple[int, ...]
    text: str
    prompt_ids: tuple[int, ...] = ()
    limits: LimitState | None = None
    replayed: bool = False


class Completed(Contract, frozen=True):
    """The last item of every good stream: the tokens and text not sent before, and the sum.
    `model_ref` is the `name@version` that answered. `limits` and `replayed` as of a `Chunk`."""

    seq: int
    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    usage: Usage
    model_ref: str = ""
    prompt_ids: tuple[int, ...] = ()
    limits: LimitState | None = None
    replayed: bool = False


class Place(Contract, frozen=True):
    """Gateway → scheduler: find a worker and reserve it. Carries no prompt. `avoid` names the
    workers (by address) that this request has already failed on. `is_resume`: the retry token may
    stand for a job already, which needs no free worker to be found. `slo` is that of the model's
    policy, `most` the bound of what it may use."""

    job: JobKey
    max_tokens: int
    deadline_s: float
    ownership: Ownership = Ownership()
    avoid: tuple[str, ...] = ()
    traceparent: str = ""
    is_resume: bool = False
    slo: Slo = Slo.STANDARD
    most: Maximum = Maximum()


class Reserve(Contract, frozen=True):
    """Scheduler → reservation: persist job and lease in one transaction, before dispatch.
    Idempotent on (tenant_id, endpoint, retry_token) of `job`. `ownership` decides what becomes of a
    job that there is already. `most` is what budgets reserve.

    Without a worker it only asks what the retry token stands for, and reserves nothing: where
    there is no job to be led to, it is told that the token is free."""

    job: JobKey
    worker_id: str
    worker_address: str
    deadline_s: float
    ownership: Ownership = Ownership()
    most: Maximum = Maximum()


class Reserved(Contract, frozen=True):
    """Where the job of a `Reserve` is now, and whose it is."""

    assignment: Assignment


class Placed(Contract, frozen=True):
    """The worker to `Run` on if the job is new, else the one to `Attach` to. As reservation has
    said it."""

    assignment: Assignment


class Run(Contract, frozen=True):
    """Gateway → worker, opens a stream of `Chunk`s closed by `Completed`.

    A fresh run carries `input`; a continuation carries `prompt_ids` and the `emitted_ids`
    that the journal holds, is never tokenized again, and starts at seq `len(emitted_ids)`.
    `split_at` is a token position that must stay a boundary between two chunks, because a
    reader further down goes on exactly there. With `keep` of the job, `said` are the pieces in
    which `emitted_ids` have come, the tokens and the text of each, so that the answer can be kept
    in full by who ends it.
    """

    job: JobKey
    fencing_token: int
    input: Input
    sampling: Sampling
    deadline_s: float
    stream: bool = True
    prompt_ids: tuple[int, ...] = ()
    emitted_ids: tuple[int, ...] = ()
    traceparent: str = ""
    split_at: int = 0
    said: tuple[tuple[int, str], ...] = ()


class Attach(Contract, frozen=True):
    """Gateway → worker: join the run of a job at `from_seq`; a stream as for `Run`. Raises
    `AnswerGone` when the worker doesn't hold it (any more). With a `fencing_token` it must be the
    run under that one: what an older one says can't be settled any more."""

    job_id: str
    from_seq: int = 0
    stream: bool = True
    split_at: int = 0
    fencing_token: int = 0


class Finished(Contract, frozen=True):
    """Gateway → scheduler, told: the worker's slot is free again. One that isn't `ok` is left
    alone for a moment; unless it is `neutral`, the worker's breaker for the model counts it.
    Neutral are refusals, cancellations and losses of the process: they don't tell how well the
    worker answers."""

    job_id: str
    worker_id: str
    ok: bool = True
    neutral: bool = False
