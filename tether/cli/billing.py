"""The commands `tether ledger`, `tether prices` and `tether receipt`, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

_CONFIG = Path("cluster.toml")
ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The configuration file.")]
NodeId = Annotated[
    str, Parameter(help="Which of its [[nodes]]; by default the only one, or TETHER_NODE.")
]
Job = Annotated[str, Parameter(help="The id of the job; `trace` in the shell shows it.")]

ledger = App(name="ledger", help="What was billed: prove it, give it back, sum it up.")
prices = App(name="prices", help="What tokens of a model cost.")


@ledger.command
def verify(
    *,
    head: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Compare the whole ledger with its sealed blocks; 1 and a sentence for whatever differs.

    Parameters
    ----------
    head
        The hash of a block that was published, which must be there; may be repeated.
    """
    from tether.cli.books import verify as run
    from tether.cli.stored import stored

    return run(stored(config, node), head)


@ledger.command
def head(*, json: bool = False, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """Print the number and the hash of the last sealed block, to be published.

    Parameters
    ----------
    json
        All of the block, as one JSON object.
    """
    from tether.cli.books import head as run
    from tether.cli.stored import stored

    return run(stored(config, node), as_json=json)


@ledger.command
def refund(
    job: Job,
    *,
    reason: str,
    tokens: int | None = None,
    micros: int | None = None,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Give back what a job was billed: all that is left, or a part.

    Parameters
    ----------
    reason
        Why; it stands in the ledger.
    tokens
        So many of its last tokens, at the price of the job.
    micros
        So many millionths of money.
    """
    from tether.cli.books import refund as run
    from tether.cli.stored import stored

    return run(stored(config, node), job, reason, tokens=tokens, micros=micros)


@ledger.command
def statement(
    tenant: str,
    *,
    month: str,
    json: bool = False,
    csv: bool = False,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Show what a tenant is billed for a month, by day, model and key.

    Parameters
    ----------
    month
        Of UTC, such as 2026-11.
    json
        One JSON object a line.
    csv
        Comma-separated, with a head.
    """
    from tether.cli.books import statement as run
    from tether.cli.stored import stored

    return run(stored(config, node), tenant, month, as_json=json, as_csv=csv)


def receipt(
    job: Job,
    *,
    head: int = 0,
    json: bool = False,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Show what a job was billed, with the proof that it is in the sealed ledger.

    Parameters
    ----------
    head
        The number of the block to which the proof leads; by default the last one.
    json
        All of it as one JSON object, for examples/verify_receipt.py.
    """
    from tether.cli.books import receipt as run
    from tether.cli.stored import stored

    return run(stored(config, node), job, head, as_json=json)


@prices.command(name="list")
def list_(*, json: bool = False, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """List the prices in force or to come.

    Parameters
    ----------
    json
        One JSON object a line.
    """
    from tether.cli.price_list import list_ as run
    from tether.cli.stored import stored

    return run(stored(config, node), as_json=json)


@prices.command
def show(model: str, *, json: bool = False, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """Show all versions of the price of a model, the newest first.

    Parameters
    ----------
    model
        As it was set: a name, name@version, or "*".
    json
        One JSON object a line.
    """
    from tether.cli.price_list import show as run
    from tether.cli.stored import stored

    return run(stored(config, node), model, as_json=json)


@prices.command(name="set")
def set_(
    model: str,
    *,
    currency: str,
    prompt: str = "0",
    cached: str = "",
    reasoning: str = "",
    output: str = "0",
    request: str = "0",
    from_: Annotated[str, Parameter(name="--from")] = "",
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Set a price, for jobs that are reserved from now on, or from a time to come.

    Parameters
    ----------
    model
        A name, name@version, or "*" for all without a price of their own.
    currency
        Its ISO 4217 code, such as EUR.
    prompt
        Money for a million tokens, such as 0.15, with up to six decimals.
    cached
        The same for cached tokens of the prompt; by default as others of it.
    reasoning
        The same for reasoning tokens of the answer; by default as others of it.
    output
        The same for tokens of the answer.
    request
        Money for each request.
    from_
        When it begins, such as 2027-01-01T00:00:00Z; by default now.
    """
    from tether.cli.price_list import set_ as run
    from tether.cli.stored import stored

    said = {
        "model": model, "currency": currency, "prompt": prompt, "cached": cached,
        "reasoning": reasoning, "output": output, "request": request, "from": from_,
    }  # fmt: skip
    return run(stored(config, node), {name: text for name, text in said.items() if text})
