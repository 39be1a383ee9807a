"""Is this receipt true? `tether receipt JOB --json | verify_receipt.py HEAD`; docs/ledger.md."""

import json
import sys
from hashlib import sha256
from typing import Any

COLUMNS = """seq at job_id number kind tenant_id key_id endpoint model_ref attempt outcome
prompt_tokens cached_tokens reasoning_tokens output_tokens micros price currency note made_by"""
HEADER = "number from_seq to_seq entries first_at last_at root previous sealed_at hash"
BILL = [*COLUMNS.split()[11:16], "currency"]


def canonical(*values: object) -> bytes:
    texts = [None if value is None else str(value).encode() for value in values]
    return b"".join(b"-," if text is None else b"%d:%s," % (len(text), text) for text in texts)


def true(receipt: dict[str, Any], head: str) -> bool:
    bill, entries, blocks = receipt["bill"], receipt["entries"], receipt["blocks"]
    told = [entry["columns"] for entry in entries]
    good = receipt["format"] == "tether-receipt-1" and list(bill) == BILL
    good &= [columns["number"] for columns in told] == list(range(1, len(told) + 1))
    good &= {(c["job_id"], c["currency"]) for c in told} == {(receipt["job_id"], bill["currency"])}
    good &= all(bill[name] == sum(columns[name] for columns in told) for name in BILL[:5])
    for entry, columns in zip(entries, told, strict=True):
        node = sha256(b"\0" + canonical("tether-entry-1", *columns.values())).digest()
        for side, beside in (step.split(":") for step in entry["path"]):
            pair = {"left": (bytes.fromhex(beside), node), "right": (node, bytes.fromhex(beside))}
            node = sha256(b"\1" + b"".join(pair[side])).digest()
        good &= {b["root"] for b in blocks if b["number"] == entry["block"]} == {node.hex()}
        good &= list(columns) == COLUMNS.split()
    for block, after in zip(blocks, [*blocks[1:], {"previous": head}], strict=True):
        hashed = sha256(canonical("tether-block-1", *list(block.values())[:-1])).hexdigest()
        good &= list(block) == HEADER.split() and hashed == block["hash"] == after["previous"]
    return bool(good)


if __name__ == "__main__":
    sys.exit(not true(json.load(sys.stdin), sys.argv[1]) and "the receipt is not true")
