"""What all tests of training share."""

import gc

import pytest


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
