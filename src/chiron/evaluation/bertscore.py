"""BERTScore of final answers, plain and rescaled, with what is needed to compare scores: encoder, layer, versions (extra ``bertscore``)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.evaluation.items import ItemResult
from chiron.evaluation.text_scores import open_pairs, with_scores
from chiron.extras import install_command
from chiron.terminal import printable

PLAIN, RESCALED = "bertscore_f1", "bertscore_f1_rescaled"
"""Names of an item's two scores."""
_NO_LIMIT = 100_000
"""Tokenizers without a limit report a huge number; limits above this one are ignored."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """The model that encodes the answers, and its settings."""

    model: str = "roberta-large"
    """A directory in transformers format with safetensors weights, or the name of an already downloaded model."""
    layer: int | None = 17
    """The layer whose output is compared, from 1; ``None`` for the last."""
    baseline: float | None = 0.83122575
    """F of unrelated sentences (bert-score's value for English and this layer). ``None`` if not measured: scores are not rescaled."""


ROBERTA_LARGE = Encoder()
"""The default encoder."""


@dataclass(frozen=True, slots=True)
class BertScores:
    """Scores of pairs of texts, in order."""

    encoder: Encoder
    hash: str
    """Hash in bert-score's format: encoder, layer, versions. Scores with different hashes cannot be compared."""
    versions: dict[str, str]
    f1: tuple[float, ...]
    """Not rescaled: for roberta-large, chance is 0.83."""
    empty: int
    """Number of pairs with an empty side; they score 0, plain and rescaled."""

    @property
    def rescaled(self) -> tuple[float | None, ...]:
        """F rescaled to a baseline of 0: (F - b) / (1 - b) (T. Zhang et al., BERTScore, ICLR 2020). Below 0 is worse than chance."""
        b = self.encoder.baseline
        if b is None:
            return (None,) * len(self.f1)
        # An empty answer has no similarity to rescale; rescaling would put it far below chance.
        return tuple(0.0 if f == 0.0 else (f - b) / (1 - b) for f in self.f1)


def bertscores(pairs: Sequence[tuple[str, str]], encoder: Encoder = ROBERTA_LARGE) -> BertScores:
    """Compute BERTScore of (given answer, known answer) pairs. The encoder is loaded once per process, on a GPU if available.

    Args:
        pairs: candidates and references; texts longer than the encoder's limit are cut.
        encoder: model and layer.

    Raises:
        InputError: the extra is not installed, or the encoder cannot be used.
    """
    scorer = _loaded(encoder)
    full = [i for i, (given, known) in enumerate(pairs) if given.strip() and known.strip()]
    f1 = [0.0] * len(pairs)
    for i, f in zip(full, scorer.f1([pairs[i] for i in full]) if full else (), strict=True):
        f1[i] = f
    return BertScores(encoder, scorer.hash, scorer.versions, tuple(f1), len(pairs) - len(full))


def scored(results: Iterable[ItemResult], encoder: Encoder = ROBERTA_LARGE) -> tuple[list[ItemResult], BertScores]:
    """Add BERTScore to the ``scores`` of the results. Closed questions, unusable and pending items are unchanged.

    An answer that could not be read counts as empty and scores 0.

    Raises:
        InputError: as :func:`bertscores`.
    """
    kept = list(results)
    found = bertscores(open_pairs(kept), encoder)
    return with_scores(kept, {PLAIN: found.f1, RESCALED: found.rescaled}), found


@dataclass(frozen=True)
class _Scorer:
    model: Any
    tokenizer: Any
    hash: str
    versions: dict[str, str]

    def f1(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        from bert_score.utils import bert_cos_score_idf

        # Every token has the same weight, except the special tokens at both ends.
        weights: defaultdict[int, float] = defaultdict(lambda: 1.0)
        weights.update({mark: 0.0 for mark in (self.tokenizer.sep_token_id, self.tokenizer.cls_token_id) if mark is not None})
        given, known = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        device = next(self.model.parameters()).device
        found = bert_cos_score_idf(self.model, known, given, self.tokenizer, weights, device=device)
        return [float(f) for _, _, f in found.tolist()]


@cache
def _loaded(encoder: Encoder) -> _Scorer:
    try:
        import torch
        from bert_score.utils import get_hash
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        raise InputError(f"BERTScore needs the package '{error.name}': {install_command('bertscore')}") from error
    folder = _folder(encoder.model)
    # Do not use bert-score's loader: it takes any path with "t5" in it for a T5, downloads from a hub, and loads pickles.
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        layers = int(config.num_hidden_layers)
        layer = layers if encoder.layer is None else encoder.layer
        if not 1 <= layer <= layers:
            raise InputError(f"encoder {printable(encoder.model)} has layers 1 to {layers}, not {layer}: name one of them")
        config.num_hidden_layers = layer  # the layers above are not needed, so they are not loaded
        with _quiet():
            model, info = AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"encoder {printable(encoder.model)} cannot be loaded: {printable(error)}") from error
    # The pooler is not used. Any other missing weight would be initialized at random.
    if lacking := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        raise InputError(
            f"encoder {printable(encoder.model)} lacks {len(lacking)} weights ({printable(lacking[0])} ...): download it again"
        )
    if tokenizer.model_max_length > _NO_LIMIT:
        tokenizer.model_max_length = _longest(config)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    versions = {name: version(name) for name in ("bert-score", "transformers", "torch")}
    return _Scorer(model, tokenizer, get_hash(encoder.model, layer, False, False, False, False), versions)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its report of the layers that are left out on purpose."""
    from transformers.utils import logging

    from chiron.providers.local.loading import no_bars

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with no_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)


def _folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"encoder {printable(model)} is not on this machine: download it ('hf download {printable(model)}'), or name a folder with one"
        ) from error


def _longest(config: Any) -> int:
    """Return the most tokens that an encoder reads. RoBERTa's positions start after its padding index."""
    positions = int(config.max_position_embeddings)
    padding = getattr(config, "pad_token_id", None) or 0
    return positions - padding - 1 if "roberta" in str(getattr(config, "model_type", "")) else positions
