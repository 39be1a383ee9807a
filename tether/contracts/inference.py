"""The messages of one request, in the order in which they are sent.

::

    front door ── Infer ──▶ gateway ── Place ──▶ scheduler ── Reserve ──▶ reservation
         ▲                    │  ▲                  │  ▲                      │
         │                    │  └──── Placed ──────┘  └────── Reserved ──────┘
         └─ Chunk… Completed ─┤
                              └─ Run ─▶ worker ── Settle ──▶ reservation
                                 ▲         │
                                 └─ Chunk… Completed

`Infer`, `Run` and `Attach` open streams; the others are asked. Whatever goes wrong is
raised as a `tether.errors.TetherError` and crosses the wire as its code.

`seq` is the number of output tokens before a chunk, so a stream can be taken up again at
any token, whatever the chunks were. Durations are seconds that remain, never a clock.
"""

from __future__ import annotations

from enum import StrEnum

from tether.contracts.catalog import Slo
from tether.contracts.contract import Contract, Value


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
    """Tokens of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Infer(Contract, frozen=True):
    """Front door → gateway, opens a stream of `Chunk`s closed by `Completed`.

    `model_ref` is `name` or `name@version`. `retry_token` is the client's Idempotency-Key or
    one made up for this request; `explicit_token` tells which. `fingerprint` is a digest of
    the body: the same token with another body is refused. `again` is set, and `from_seq` perhaps
    not 0, when the front door takes up a stream whose gateway was lost. With `stream` false all
    of the answer comes in one `Completed`.
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
    again: bool = False


class Chunk(Contract, frozen=True):
    """Some output tokens and the text they added (which may be empty: half a character, or
    the beginning of a stop string). `prompt_ids` comes with the first chunk of a run only."""

    seq: int
    token_ids: tuple[int, ...]
    text: str
    prompt_ids: tuple[int, ...] = ()


class Completed(Contract, frozen=True):
    """The last item of every good stream: the tokens and text not sent before, and the sum.
    `model_ref` is the `name@version` that answered."""

    seq: int
    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    usage: Usage
    model_ref: str = ""
    prompt_ids: tuple[int, ...] = ()


class Place(Contract, frozen=True):
    """Gateway → scheduler: find a worker and reserve it. Carries no prompt. `attempt` counts
    from 1; `avoid` names workers that this request has already failed on. `claim`, `held` and
    `lost` as in `Reserve`. `again`: the retry token may stand for a job already, which needs no
    free worker to be found. `slo` is that of the model's policy."""

    job_id: str
    tenant_id: str
    retry_token: str
    fingerprint: bytes
    model_ref: str
    max_tokens: int
    deadline_s: float
    attempt: int = 1
    avoid: tuple[str, ...] = ()
    traceparent: str = ""
    claim: int = 0
    held: int = 0
    again: bool = False
    lost: int = 0
    slo: Slo = "standard"


class Placed(Contract, frozen=True):
    """The worker to `Run` on. If `known` is set the token belongs to an older job, `job_id` is
    that job: `Attach` to its worker while `known` is "running"; any other word is its
    outcome. `claim` as in `Reserved`."""

    job_id: str
    worker_id: str
    worker_address: str
    fence: int
    known: str = ""
    claim: int = 0


class Reserve(Contract, frozen=True):
    """Scheduler → reservation: persist job and lease in one transaction, before dispatch.
    Idempotent on (tenant_id, retry_token).

    `claim` is a number that whoever asks draws anew for each ask, and the job keeps that of the
    last one who was given it or led to it. `held` is the last claim that the asker has drawn for
    this job, or was told; 0 if there is none. A running job moves to another worker, under a new
    fence, only for who holds its claim: an ask that comes late, from somebody who is gone, can't
    take it from those who read it. Without a claim (0) a higher `attempt` of the same job moves
    it.

    Without a worker it only asks what the retry token stands for, and reserves nothing: where
    there is no job to be led to, the answer's `fence` is 0.

    `lost` is the fence of an answer that was completed, and is lost with all who held it before
    its client had read all of it: such a job is given anew. It has its one bill already."""

    job_id: str
    tenant_id: str
    retry_token: str
    fingerprint: bytes
    model_ref: str
    worker_id: str
    worker_address: str
    deadline_s: float
    attempt: int = 1
    claim: int = 0
    held: int = 0
    lost: int = 0


class Reserved(Contract, frozen=True):
    """`fence` grows with every attempt; a `Settle` under an older one changes nothing. `claim` is
    that of the job now: the asker's, or one that it may hold from here on."""

    job_id: str
    worker_id: str
    worker_address: str
    fence: int
    known: str = ""
    claim: int = 0


class Run(Contract, frozen=True):
    """Gateway → worker, opens a stream of `Chunk`s closed by `Completed`.

    A fresh run carries `input`; a continuation carries `prompt_ids` and the `emitted_ids`
    that the journal holds, is never tokenized again, and starts at seq `len(emitted_ids)`.
    `split_at` is a token position that must stay a boundary between two chunks, because a
    reader further down goes on exactly there.
    """

    job_id: str
    tenant_id: str
    fence: int
    model_ref: str
    input: Input
    sampling: Sampling
    deadline_s: float
    stream: bool = True
    prompt_ids: tuple[int, ...] = ()
    emitted_ids: tuple[int, ...] = ()
    traceparent: str = ""
    split_at: int = 0


class Attach(Contract, frozen=True):
    """Gateway → worker: join the run of a job at `from_seq`; a stream as for `Run`. Raises
    `AnswerGone` when the worker doesn't hold it (any more). With a `fence` it must be the run
    under that one: what an older one says can't be settled any more."""

    job_id: str
    from_seq: int = 0
    stream: bool = True
    split_at: int = 0
    fence: int = 0


class Finished(Contract, frozen=True):
    """Gateway → scheduler, told: the worker's slot is free again. One that isn't `ok` is left
    alone for a moment; unless it is `neutral`, the worker's breaker for the model counts it.
    Neutral are refusals, cancellations and losses of the process: they don't tell how well the
    worker answers."""

    job_id: str
    worker_id: str
    ok: bool = True
    neutral: bool = False


class Settle(Contract, frozen=True):
    """Worker (or, when it died after the answer, gateway) → reservation: close job, usage,
    ledger and lease in one transaction. Idempotent; only the current `fence` counts.

    `delivered`: the answer is complete, and a reader has taken it to its end. That counts under an
    older fence, and after another end of the job, unless it was completed before: what was
    answered is billed, whatever somebody else has made of the job meanwhile."""

    job_id: str
    fence: int
    outcome: Outcome
    usage: Usage
    finish: str = ""
    error_code: str = ""
    delivered: bool = False


class Settled(Contract, frozen=True):
    """`first` is false when the job was settled before, or the fence was stale."""

    job_id: str
    first: bool
