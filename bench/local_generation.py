"""Intern evaluations a second of the provider ``local``: one at a time with nothing shared, against many together."""

import tempfile
import time
from pathlib import Path

import torch

from bench.table import heading, table
from chiron.providers.local.checkpoint import find_checkpoint
from chiron.providers.local.generation import PrefixCache, Request
from chiron.providers.local.loading import load
from tests.providers.local.checkpoints import a_call, config_of, generate, write_internvl, write_pictures

_CASES, _EVALUATIONS, _TOKENS = 4, 16, 48


def main() -> None:
    heading(f"Generation in this process: a tiny random InternVL, {torch.get_num_threads()} threads of a CPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_internvl(folder / "model")
        store, pictures = write_pictures(folder / "images", _CASES)
        family, _ = load(find_checkpoint(checkpoint), config_of(checkpoint))
        history = "The patient fell from a ladder and has had pain in the left flank ever since. " * 12
        calls = [
            a_call(picture, history, f"### Step 1: candidate {n // 2}", temperature=(0.2, 1.2)[n % 2], max_tokens=_TOKENS)
            for picture in pictures
            for n in range(_EVALUATIONS)
        ]

        def seconds(batch: int, *, shared: bool) -> float:
            family.forget()
            prefixes = PrefixCache(2**28)
            began = time.perf_counter()
            for start in range(0, len(calls), batch):
                if not shared:
                    family.forget()
                    prefixes.forget()
                chosen = calls[start : start + batch]
                requests = [Request(family.prompt(c.messages, store), c.temperature, c.max_tokens, c.key) for c in chosen]
                generate(family, requests, prefixes)
            return time.perf_counter() - began

        seconds(32, shared=True)  # warm
        alone = seconds(1, shared=False)
        rows = [("one at a time, nothing shared", len(calls) / alone, 1.0)]
        for label, batch in (
            ("one at a time, beginnings shared", 1),
            ("16 together, shared", 16),
            ("32 together, shared", 32),
            ("64 together, shared", 64),
        ):
            took = seconds(batch, shared=True)
            rows.append((label, len(calls) / took, alone / took))
        table(["way", "evaluations/s", "ratio (aim: 10)"], rows)


if __name__ == "__main__":
    main()
