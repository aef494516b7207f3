"""What all tests of training share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.tiny import tiny_model, tiny_tokenizer, write_rows


@pytest.fixture(scope="session", autouse=True)
def _libraries_out_of_the_collectors_way() -> None:
    """Every stage ends with a full collection, which would go through the half million objects of torch and transformers each time."""
    import matplotlib.figure
    import peft
    import torch
    import transformers.models.internvl.modeling_internvl

    del matplotlib, peft, torch, transformers
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _curves_of_shared_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a third of a small training. The runs that a module shares draw theirs, and of these the picture is tested."""
    monkeypatch.setattr("chiron.training.session.draw_curves", lambda *_, **__: None)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums over more threads, or fewer, differ in the last bit; another test may have set another number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows of text and a base model; some modules have one of their own."""
    folder = tmp_path_factory.mktemp("world")
    write_rows(folder / "data", 8, ("text",), name="text.jsonl")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder
