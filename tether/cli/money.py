"""The commands `tether budgets`, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

_CONFIG = Path("cluster.toml")
_ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The configuration file.")]
_NodeId = Annotated[str, Parameter(help="Which of its [[nodes]]; see `tether up`.")]

budgets = App(name="budgets", help="What tenants may spend in a day, a month, or at all.")


@budgets.command(name="list")
def list_(
    tenant: str = "", *, config: _ConfigPath = _CONFIG, node: _NodeId = "", json: bool = False
) -> int:
    """List all budgets, or those of one tenant, as they stand in their present periods.

    Parameters
    ----------
    tenant
        Only this tenant's.
    json
        One JSON object a line.
    """
    from tether.cli.budgets import list_ as run
    from tether.cli.stored import stored

    return run(stored(config, node), tenant, as_json=json)


@budgets.command
def show(id: int, *, config: _ConfigPath = _CONFIG, node: _NodeId = "", json: bool = False) -> int:
    """Show one budget, and when shares of it were reached.

    Parameters
    ----------
    id
        Which one; `tether budgets list` shows ids.
    json
        One JSON object.
    """
    from tether.cli.budgets import show as run
    from tether.cli.stored import stored

    return run(stored(config, node), id, as_json=json)


@budgets.command(name="set")
def set_(
    tenant: str,
    amount: str,
    *,
    unit: Literal["micros", "tokens"] = "micros",
    period: Literal["day", "month", "total"] = "month",
    key: str = "",
    model: str = "",
    warn: str = "80,95",
    over: Literal["402", "429"] = "402",
    config: _ConfigPath = _CONFIG,
    node: _NodeId = "",
    json: bool = False,
) -> int:
    """Make a budget, or change the one that is for the same tenant, key, model, period and unit.

    Parameters
    ----------
    tenant
        Whose it is.
    amount
        How much may be spent in a period; 0: nothing.
    unit
        Micros of money (millionths), or tokens of prompts and answers together.
    period
        A day or a month of UTC, or all of time.
    key
        Only requests with this API key, given as its id or prefix.
    model
        Only requests to this name, or name@version.
    warn
        The shares, in per cent, at which an event is written, besides 100.
    over
        The HTTP status of what has no room.
    json
        One JSON object.
    """
    from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
    from tether.cli.budgets import amount_of, shares_of
    from tether.cli.budgets import set_ as run
    from tether.cli.stored import stored

    budget = TenantBudget(
        tenant_id=tenant,
        key_id=key,
        model=model,
        period=BudgetPeriod(period),
        unit=BudgetUnit(unit),
        amount=amount_of(amount),
        warn=shares_of(warn),
        over=int(over),
    )
    return run(stored(config, node), budget, as_json=json)


@budgets.command
def remove(id: int, *, config: _ConfigPath = _CONFIG, node: _NodeId = "") -> int:
    """End a budget; what it has spent stays on record.

    Parameters
    ----------
    id
        Which one; `tether budgets list` shows ids.
    """
    from tether.cli.budgets import remove as run
    from tether.cli.stored import stored

    return run(stored(config, node), id)
