"""The command line: commands and their arguments; each does its work in a module of its own."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from supervision.errors import TetherError
from supervision.release import VERSION
from supervision.settings import ConfigInvalid
from tether.cli.billing import ledger, prices, receipt
from tether.cli.certificates import ca
from tether.cli.database import db
from tether.cli.failure import CommandFailed
from tether.cli.models import artifacts, models
from tether.cli.money import budgets
from tether.cli.tenants import limits
from tether.config import load

_CONFIG = Path("cluster.toml")
ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The configuration file.")]
NodeId = Annotated[
    str, Parameter(help="Which of its [[nodes]]; by default the only one, or TETHER_NODE.")
]

app = App(
    name="tether",
    help="An AI-inference network of supervised actors.",
    version=VERSION,
    result_action="return_value",
)
keys = App(name="keys", help="Make, list and revoke API keys.")
app.command(keys)
cluster = App(name="cluster", help="The nodes that belong together.")
app.command(cluster)
app.command(ca)
app.command(budgets)
app.command(db)
app.command(models)
app.command(artifacts)
app.command(limits)
app.command(ledger)
app.command(prices)
app.command(receipt)


@app.command
def up(
    *,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
    dev: bool = False,
    log_file: Path | None = None,
    allow_eval: bool = False,
) -> int:
    """Run a node in the foreground until SIGTERM or Ctrl-C.

    Parameters
    ----------
    dev
        Log at level DEBUG, and make a tenant `dev` with a key that is printed.
    log_file
        Append the logs of all processes to this file in place of standard error.
    allow_eval
        Let `tether shell --allow-eval` run Python with this node at hand.
    """
    from tether.cli.up import up as run

    return run(load(config, node), path=config, dev=dev, log_file=log_file, allow_eval=allow_eval)


@app.command
def down(*, config: ConfigPath = _CONFIG, node: NodeId = "", timeout: float = 60.0) -> int:
    """Stop the node of this configuration; running answers finish first.

    Parameters
    ----------
    timeout
        Seconds until it is killed.
    """
    from tether.cli.down import down as run

    return run(load(config, node), timeout_s=timeout)


@app.command
def check(*, config: ConfigPath = _CONFIG, node: NodeId = "", strict: bool = False) -> int:
    """Show all mistakes of a configuration at once, and warn of what is better otherwise.

    Parameters
    ----------
    strict
        A warning is a failure.
    """
    from tether.cli.check import check as run

    return run(config, node, strict=strict)


@app.command
def tree(*, config: ConfigPath = _CONFIG, node: NodeId = "", json: bool = False) -> int:
    """Show the supervision tree of the running node.

    Parameters
    ----------
    json
        One JSON object a line.
    """
    from tether.cli.tree import tree as run

    return run(load(config, node), as_json=json)


@app.command
def shell(
    *,
    command: Annotated[str | None, Parameter(name=["--command", "-c"])] = None,
    json: bool = False,
    allow_eval: bool = False,
    config: Annotated[Path, Parameter(help="The configuration file.")] = _CONFIG,
    node: NodeId = "",
    identity: Path | None = None,
) -> int:
    """Look into the running node, and operate it; `help` there shows how.

    Parameters
    ----------
    command
        Run these commands, with semicolons in between, and leave. Without it, and without a
        terminal, they are read from standard input.
    json
        One JSON object a line.
    allow_eval
        Let `eval` run Python, if the node was started with --allow-eval.
    identity
        Reach the node from another machine, with the operator's certificate in this folder;
        --node is its id in cluster.toml then, or ID@HOST:PORT.
    """
    from tether.cli.shell import shell as run
    from tether.cli.shell import shell_away

    if identity is not None:
        known = None if "@" in node else load(config, node)
        return shell_away(node, known, identity, command, as_json=json)
    return run(load(config, node), command, as_json=json, allow_eval=allow_eval)


@keys.command
def create(
    tenant: str,
    *,
    name: str = "",
    operator: bool = False,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Make a key for a tenant, and print it; it cannot be shown again.

    Parameters
    ----------
    tenant
        Who the key speaks for; made if there is none of that name.
    name
        What the key is for.
    operator
        It may also change the registry of models, over HTTP.
    """
    from tether.cli.keys import create as run
    from tether.cli.stored import stored

    return run(stored(config, node), tenant, name, operator=operator)


@keys.command(name="list")
def list_(
    *,
    tenant: str | None = None,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
    json: bool = False,
) -> int:
    """List all keys, or those of one tenant.

    Parameters
    ----------
    tenant
        Only this tenant's.
    json
        One JSON object a line.
    """
    from tether.cli.keys import list_ as run
    from tether.cli.stored import stored

    return run(stored(config, node), tenant, as_json=json)


@keys.command
def revoke(key: str, *, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """End a key, given as its id, its prefix, or its text.

    Parameters
    ----------
    key
        Which one; `tether keys list` shows ids and prefixes.
    """
    from tether.cli.keys import revoke as run
    from tether.cli.stored import stored

    return run(stored(config, node), key)


@cluster.command
def status(*, config: ConfigPath = _CONFIG, node: NodeId = "", json: bool = False) -> int:
    """Show all nodes as the running node sees them: who is there, who leads, what they run.

    Parameters
    ----------
    json
        One JSON object a line.
    """
    from tether.cli.cluster import status as run

    return run(load(config, node), as_json=json)


def main() -> None:
    """Run the command in `sys.argv`, and leave the process with its exit code: 0 when done, 1 when
    it could not be done, 2 when it was called wrongly, 130 after Ctrl-C."""
    code = _guarded(sys.argv[1:])
    if "obstore" in sys.modules:  # its threads abort a process whose interpreter ends under them
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        os._exit(code or 1)
    sys.exit(code)


def _guarded(tokens: list[str]) -> int:
    from tether.node.home import HomeUnusable

    try:
        code = app(tokens, exit_on_error=False, print_error=False)
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _told([f"{' '.join(str(error).split())} See `tether --help`."], 2)
    except ConfigInvalid as error:
        return _told([str(problem) for problem in error.problems], 1)
    except CommandFailed as error:
        return _told(error.sentences, error.code)
    except (TetherError, HomeUnusable) as error:
        return _told([str(error)], 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        told = (
            f"this is a bug of Tether ({type(error).__name__}: {error}); TETHER_DEBUG=1 shows where"
        )
        return _told([told], 1)


def _told(sentences: tuple[str, ...] | list[str], code: int) -> int:
    """Print each sentence on a line of standard error; the traceback only for whoever asks."""
    if os.environ.get("TETHER_DEBUG"):
        raise  # noqa: PLE0704 - called from an except block only
    for sentence in sentences:
        print(f"tether: {sentence}", file=sys.stderr)
    return code
