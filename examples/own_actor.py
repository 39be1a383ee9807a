"""An actor of one's own under a supervisor: asked, killed, restarted, asked again.

    .venv/bin/python -m examples.own_actor

Nothing of inference is needed for it, only the lowest floor, `supervision`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile

import msgspec

from supervision.child import Supervised
from supervision.contracts import ChildStatus, Contract, Tree, TreeNode, WatchTree
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address, Endpoint, on
from supervision.spec import SupervisorOptions
from supervision.system import System

NODE = "example"


class CountWords(Contract, frozen=True):
    """What the actor is asked; it travels as MessagePack."""

    text: str


class WordsCounted(Contract, frozen=True):
    """What it answers: the words of this text, and of all texts since its process began."""

    words: int
    total: int


class WordCounter(Supervised):
    """Counts words. What is in memory only, as `total`, ends with the process."""

    async def start(self, options: object) -> None:
        self.total = 0

    @on(CountWords)
    def count(self, msg: CountWords, sender: Address) -> WordsCounted:
        words = len(msg.text.split())
        self.total += words
        return WordsCounted(words=words, total=self.total)


# Run by `python -m`, this module is called `__main__`, and so would be the class that the process
# of the actor is to import; there `__main__` is another module. So the child's class is named.
CHILD = msgspec.structs.replace(WordCounter.spec(), start="examples.own_actor:WordCounter")


async def running(endpoint: Endpoint, root: Address, *, but: int = 0) -> TreeNode:
    """The counter as the tree shows it, once it runs in another process than `but`."""
    async for tree in endpoint.stream(root, WatchTree()):
        assert isinstance(tree, Tree)  # an answer may be any contract, for the type checker
        for node in tree.nodes:
            if node.path == CHILD.id and node.state is ChildStatus.RUNNING and node.pid != but:
                return node
    raise RuntimeError("the root supervisor ended its stream of trees; see its log")


async def ask_kill_ask(run_dir: str) -> None:
    """Start the tree, and stop it whatever happens in between."""
    async with Endpoint.connect(run_dir=run_dir, node=NODE) as endpoint:
        root = await start_tree(endpoint, SupervisorOptions(children=(CHILD,)))
        try:
            node = await running(endpoint, root)
            print(f"the counter runs, generation {node.generation}")
            for text in ("to be or not to be", "that is the question"):
                print(await endpoint.ask(node.address, CountWords(text=text)))
            os.kill(node.pid, signal.SIGKILL)
            print("its process is killed")
            node = await running(endpoint, root, but=node.pid)
            print(f"its supervisor has restarted it, generation {node.generation}")
            print(await endpoint.ask(node.address, CountWords(text="to be or not to be")))
        finally:
            await stop_tree(endpoint, root)
    print("all is stopped")


def main() -> None:
    """A node of its own: one Admin process, whose run directory is a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="tether-") as run_dir:
        os.environ["THESPLOG_FILE"] = f"{run_dir}/thespian.log"  # Thespian's would be in /tmp
        system = System.start(
            {
                "Node Id": NODE,
                "Run Dir": run_dir,
                "Actor Classes": ["supervision.root:Root", CHILD.start],
                "Owner Pid": os.getpid(),  # if this process is killed, the node ends, too
            }
        )
        try:
            asyncio.run(ask_kill_ask(run_dir))
        finally:
            system.shutdown()


if __name__ == "__main__":
    main()
