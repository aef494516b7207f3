"""BERTScore with a tiny encoder made on the spot: what it says is random, how it says it is not."""

from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.evaluation.bertscore import ROBERTA_LARGE, BertScores, Encoder, bertscores, scored
from chiron.evaluation.items import Verdict
from tests.support.evaluations import an_item

pytestmark = pytest.mark.slow  # loads PyTorch

WORDS = ["rib fracture of the seventh rib", "no pneumothorax", "cyst in the upper lobe of the left lung"]


@pytest.fixture
def folder(encoder_folder: Path) -> Path:
    return encoder_folder


@pytest.mark.slow
def test_the_same_words_score_one_and_others_less(folder: Path) -> None:
    found = bertscores([(WORDS[0], WORDS[0]), (WORDS[1], WORDS[2])], Encoder(str(folder), 2, None))
    assert found.f1[0] == pytest.approx(1.0, abs=1e-4)
    assert found.f1[1] < 0.999
    assert found.rescaled == (None, None)
    assert found.empty == 0


def test_it_is_what_bert_score_itself_says(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bert_score import BERTScorer

    plain = tmp_path / "encoder"
    plain.symlink_to(folder)
    if "t5" in str(plain):
        pytest.skip("bert-score would take this path for a T5")
    scorer = BERTScorer(model_type=str(plain), num_layers=2, device="cpu")
    scorer._tokenizer.model_max_length = 38
    _, _, theirs = scorer.score([WORDS[1], WORDS[2]], [WORDS[2], WORDS[0]])
    ours = bertscores([(WORDS[1], WORDS[2]), (WORDS[2], WORDS[0])], Encoder(str(folder), 2, None))
    assert ours.f1 == pytest.approx(theirs.tolist(), abs=1e-5)


def test_empty_answers_score_nothing_and_are_counted(folder: Path) -> None:
    found = bertscores([("", WORDS[0]), ("  \n", WORDS[0]), (WORDS[0], "")], Encoder(str(folder), 1, 0.5))
    assert found.f1 == found.rescaled == (0.0, 0.0, 0.0)
    assert found.empty == 3
    assert bertscores([], Encoder(str(folder), 1, 0.5)).f1 == ()


def test_long_answers_are_cut(folder: Path) -> None:
    long = "rib " * 500
    found = bertscores([(long, WORDS[0]), (long + "cyst", long + "lung")], Encoder(str(folder), None, None))
    assert found.f1[1] == pytest.approx(1.0, abs=1e-4)  # what differs lies beyond what is read


def test_the_layer_matters_and_is_told(folder: Path) -> None:
    pair = [(WORDS[1], WORDS[2])]
    first, last = (bertscores(pair, Encoder(str(folder), layer, None)) for layer in (1, None))
    assert first.f1 != last.f1
    assert "_L1_" in first.hash
    assert "_L3_" in last.hash
    assert set(last.versions) == {"bert-score", "transformers", "torch"}


def test_it_is_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    encoder = Encoder(str(folder), 3, None)
    bertscores([(WORDS[0], WORDS[1])], encoder)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded again"))
    bertscores([(WORDS[0], WORDS[1])], Encoder(str(folder), 3, None))


def test_the_baseline_of_roberta_large() -> None:
    def rescaled(f: float) -> float | None:
        return BertScores(ROBERTA_LARGE, "", {}, (f,), 0).rescaled[0]

    # What the paper's plain figures of 83 to 90 come to.
    assert [round(100 * (rescaled(f) or 0), 1) for f in (0.83, 0.85, 0.87, 0.90)] == [-0.7, 11.1, 23.0, 40.7]


def test_only_open_answers_are_scored(folder: Path) -> None:
    items = [
        an_item(1, kind="open", given="rib", answer="rib"),
        an_item(2),
        an_item(3, kind="open", verdict=Verdict.UNPARSED, given=None),
        an_item(4, kind="open", verdict=Verdict.PENDING, given=None),
    ]
    results, found = scored(items, Encoder(str(folder), 2, 0.5))
    assert results[0].scores["bertscore_f1"] == pytest.approx(1.0, abs=1e-4)
    assert results[0].scores["bertscore_f1_rescaled"] == pytest.approx(1.0, abs=1e-4)
    assert results[2].scores == {"bertscore_f1": 0.0, "bertscore_f1_rescaled": 0.0}
    assert not results[1].scores
    assert not results[3].scores
    assert found.empty == 1


def test_encoders_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hf download nobody/nothing"):
        bertscores([], Encoder("nobody/nothing"))
    with pytest.raises(InputError, match="layers 1 to 3, not 17"):
        bertscores([], Encoder(str(folder)))
    with pytest.raises(InputError, match="cannot be loaded"):
        bertscores([], Encoder(str(tmp_path), None))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="cannot be loaded"):  # no safetensors
        bertscores([], Encoder(str(tmp_path), 2))
