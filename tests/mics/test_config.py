"""A configuration is right, or its first fault is said with its place and the mend."""

import datetime as dt
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from chiron.client.config import LocalModel, OpenAIModel
from chiron.errors import InputError
from chiron.evaluation.config import load_evaluation
from chiron.mics.config import check_config, load_config
from chiron.mics.prompts import TEMPLATES, template
from chiron.mmrp.config import load_build
from tests.support.runs import team, write_config

GOOD = team("http://127.0.0.1:9/v1")


def changed(path: str, value: Any) -> dict[str, Any]:
    data = deepcopy(GOOD)
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return data


def test_the_published_models_are_asked_as_their_authors_ask_them(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(template("chiron-o1"))
    config = load_evaluation(tmp_path / "c.yaml", "chiron-o1-2b")
    model = config.model("chiron-o1-2b")
    assert isinstance(model, LocalModel)
    assert (model.max_tiles, model.max_tiles_per, model.thumbnail, model.system) == (12, "image", True, "internvl2_5")
    assert model.max_tokens == 1024
    assert config.evaluation.judge == "deepseek-v3"


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "chiron-o1"])
def test_every_configuration_that_init_writes_is_in_order(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text(template(name))
    config = load_config(tmp_path / "c.yaml")
    assert config.search.mentors
    if name != "practice":
        assert load_build(tmp_path / "c.yaml").build.reader
    assert load_evaluation(tmp_path / "c.yaml", config.search.judge).evaluation.judge == config.search.judge


def test_stand_ins_write_no_questions_and_no_text(tmp_path: Path) -> None:
    """Only their paths would say what they are."""
    (tmp_path / "c.yaml").write_text(template("practice"))
    with pytest.raises(InputError, match="build: Field required"):
        load_build(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("search.temperatrues", [1.0], "unknown key 'search.temperatrues'; did you mean 'temperatures'"),
        ("models.judge.base_urll", "x", "unknown key 'models.judge.base_urll'; did you mean 'base_url'"),
        ("modles", {}, "unknown key 'modles'; did you mean 'models'"),
        ("search.max_tokens", {"mentors": 5}, "unknown key 'search.max_tokens.mentors'; did you mean 'mentor'"),
        ("search.judge", "jugde", "search.judge names 'jugde', which is not defined under models; did you mean 'judge'"),
        ("search.mentors", [], "search.mentors"),
        ("search.mentors", ["mentor-a", "mentor-a"], "twice"),
        ("search.interns", None, "search.interns"),
        ("search.depth", 0, "search.depth"),
        ("search.temperatures", [3.0], "search.temperatures"),
        ("search.policy", "papper", "search.policy"),
        ("search.budget_usd", 5, "models.mentor-a has none"),
        ("models.judge.provider", "opnai", "models.judge"),
        ("models.judge.base_url", "localhost:8000", "http://"),
        ("models.judge.base_url", "http://h/v1/chat/completions", "must end before"),
        ("models.judge.base_url", "https://me:secret@h/v1", "api_key_env"),
        ("models.judge.parameters", {"n": 8}, "parameters contains 'n'"),
        ("models.judge.model", "a\ud800", "half a character (a surrogate)"),
        ("models.judge.parameters", {"x": ["secret\ud800"]}, "half a character (a surrogate)"),
        ("models.\x1b[2J", GOOD["models"]["judge"], "'\\x1b[2J' is not a valid name"),
        ("models.judge.headers", {"Authorization": "Bearer secret"}, "api_key_env"),
        ("models.judge.headers", {"X-Goog-Api-Key": "secret"}, "api_key_header"),
        ("models.judge.headers", {"Cookie": "session=secret"}, "api_key_env"),
        ("models.judge.headers", {"Proxy-Authorization": "secret"}, "api_key_env"),
        ("models.judge.headers", {"X-A": "a\nb"}, "has an invalid value"),
        ("models.judge.headers", {"X-A": "\u4e2d"}, "has an invalid value"),
        ("models.judge.headers", {"X A": "b"}, "not a valid header name"),
        ("models.judge.headers", {"X-A\r\nX-B": "b"}, "not a valid header name"),
        ("models.judge.headers", {"Content-Length": "5"}, "sets itself"),
        ("models.judge.api_key_header", "api-key", "needs api_key_env"),
        ("models.judge.base_url", "https://h/v1?key=secret", "api_key_env"),
        ("models.judge.base_url", "https://h/v1#secret", "api_key_env"),
        ("models.judge.base_url", "h/v1?key=secret", "api_key_env"),
        ("models.judge.base_url", "http://[::1/v1", "not a valid address"),
        ("models.judge.base_url", "http://h:99999/v1", "not a valid address"),
        ("models.judge.base_url", "http://h:abc/v1", "not a valid address"),
        ("models.judge.base_url", "http:///v1", "has no valid host"),
        ("models.judge.base_url", "http://" + "a" * 70 + ".com/v1", "has no valid host"),
        ("models.judge.base_url", "http://..../v1", "has no valid host"),
        ("models.judge.base_url", "http://a b/v1", "a space"),
        ("models.judge.base_url", "http://a\nb/v1", "a space"),
        ("models.judge.parameters", {"day": dt.date(2020, 1, 1)}, "JSON"),
        ("models.judge.parameters", {"logit_bias": {1: 2, "a": 3}}, "JSON"),
        ("models.judge.parameters", {"x": float("nan")}, "JSON"),
        ("models.judge.timeout", float("inf"), "finite"),
        ("models.judge.deadline", float("nan"), "finite"),
        ("models.judge.price", {"input": float("inf"), "output": 0}, "finite"),
        ("search.mentor_temperature", float("nan"), "search.mentor_temperature"),
        ("models.judge.timeout", True, "must be a number"),
        ("search.depth", True, "must be a number"),
        ("search.temperatures", [True, 0.2], "must be a number"),
        ("models.judge.concurrency", 10**30, "too large"),
        ("search.prompts", {"judge": "~nosuchuser/x"}, "cannot be used as a path"),
        ("search.prompts", {"judge": "a\0b"}, "invisible character"),
        ("models.judge\x1b[31m", {"provider": "offline", "model": "x"}, "is not a valid name"),
    ],
)
def test_the_first_fault_is_named_with_its_place(tmp_path: Path, path: str, value: Any, words: str) -> None:
    file = write_config(tmp_path / "c.yaml", changed(path, value))
    with pytest.raises(InputError) as caught:
        load_config(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_faults_are_told_at_once_and_a_misspelt_key_is_one(tmp_path: Path) -> None:
    data = deepcopy(GOOD)
    data["search"]["mentor"] = data["search"].pop("mentors")
    data["search"]["depth"] = 0
    data["models"]["judge"].update(timeout=True, tiemout=5, concurrency="many")
    file = write_config(tmp_path / "c.yaml", data)
    with pytest.raises(InputError) as caught:
        load_config(file)
    told = str(caught.value)
    assert f"{file} has 5 errors: (1) " in told
    for words in (
        "unknown key 'search.mentor'; did you mean 'mentors'?",
        "search.depth: ",
        "models.judge.timeout: must be a number",
        "unknown key 'models.judge.tiemout'; did you mean 'timeout'?",
        "models.judge.concurrency: ",
    ):
        assert words in told
    assert "search.mentors" not in told  # it is there, under a wrong name
    assert "\n" not in told
    data = deepcopy(GOOD)
    data["search"]["mentors"], data["search"]["judge"] = ["mentor-z", "nobody"], "juge"
    with pytest.raises(InputError, match=r"'mentor-z', .*did you mean 'mentor-[abc]'.*'nobody'.*'juge', .*did you mean 'judge'"):
        load_config(write_config(tmp_path / "c.yaml", data))


@pytest.mark.parametrize(
    "key",
    ["sk-proj-0123456789abcdef", "sk_live_51H8xkfhdkj3hd83", "AKIAIOSFODNN7EXAMPLE", "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh", "a b", ""],
)
def test_a_key_in_place_of_its_variable_is_refused_and_never_shown(tmp_path: Path, key: str) -> None:
    file = write_config(tmp_path / "c.yaml", changed("models.judge.api_key_env", key))
    with pytest.raises(InputError, match="api_key_env must be the name of an environment variable") as caught:
        load_config(file)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "key", "Azure_OpenAI_Key_2", "_X", "DEEPSEEKAPIKEY"])
def test_names_of_variables_are_taken(tmp_path: Path, name: str) -> None:
    config = load_config(write_config(tmp_path / "c.yaml", changed("models.judge.api_key_env", name)))
    judge = config.models["judge"]
    assert isinstance(judge, OpenAIModel)
    assert judge.api_key_env == name


def test_a_file_that_is_too_large_or_repeats_itself_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("# " + "x" * 2**20)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_config(file)
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    file.write_text("\n".join(["l0: &l0 [a, b]", *levels]))
    with pytest.raises(InputError, match="'l5' has more than 100,000 values"):
        load_config(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("models: {m: {timeout: 1:30}}", "line 1, column 23 is not valid YAML: 1:30 would be read as a number to the base 60"),
        ("models:\n  m: {deadline: 1:30.5}", "line 2, column 17 is not valid YAML: 1:30.5 would be read"),
        ("a: [", "not valid YAML"),
        ("- 1", "not a mapping"),
        ("day: 2001-99-99", "contains an invalid value"),
        ("seed: 1" + "0" * 5000, "contains an invalid value"),
        ("[" * 3000, "nested too deeply"),
        ("models: &a {x: *a}\nsearch: {}", "models"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2, column 11 is not valid YAML: the key 'c' occurs twice"),
        ('a: "g\\ud800"', "line 1, column 4 is not valid YAML: a text contains half a character"),
        ("a: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("a: \0", "not valid YAML"),
    ],
)
def test_what_is_no_configuration_is_said_so(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_config(tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="chiron init"):
        load_config(tmp_path / "none.yaml")


def test_prompts_lie_beside_the_configuration(tmp_path: Path) -> None:
    file = write_config(tmp_path / "c.yaml", changed("search.prompts", {"judge": "mine/judge.txt"}))
    assert load_config(file).search.prompts == {"judge": str(tmp_path / "mine/judge.txt")}


def test_a_seed_from_the_command_line_goes_before_the_files(tmp_path: Path) -> None:
    assert load_config(write_config(tmp_path / "c.yaml", GOOD), seed=7).search.seed == 7


def test_a_mapping_that_takes_over_another_may_change_its_keys(tmp_path: Path) -> None:
    text = "z: &z {a: 1}\nx: {y: &y {<<: *z, a: 2}}\nmodels: {m: {<<: *y, provider: offline, model: x}}\nsearch: {}"
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert "occurs twice" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "https://h\u00f6st.example/v1", "http://vllm_a/v1/"])
def test_addresses_of_every_kind_are_taken(tmp_path: Path, url: str) -> None:
    data = changed("models.judge.headers", {"HTTP-Referer": "https://x.example", "X-Title": "chiron"})
    data["models"]["judge"].update(base_url=url, api_key_env="SOME_KEY", api_key_header="api-key")
    judge = load_config(write_config(tmp_path / "c.yaml", data)).models["judge"]
    assert isinstance(judge, OpenAIModel)
    assert judge.base_url == url
    assert judge.headers == {"HTTP-Referer": "https://x.example", "X-Title": "chiron"}
    assert (judge.api_key_env, judge.api_key_header) == ("SOME_KEY", "api-key")


@pytest.mark.parametrize("value", ["!!bool foo", "!!int ''", "!!float ''", "!!timestamp foo"])
def test_values_that_are_none_of_their_kind_are_named(tmp_path: Path, value: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"models: {value}")
    with pytest.raises(InputError, match="contains an invalid value"):
        load_config(path)


WITH_FAULTS = """\
models:
  judge: {provider: offline, model: match/normalised}
  qwen2.5-vl:
    provider: openai
    base_url: localhost:8000
    model: qwen
    timeot: 3
search:
  mentors: [judge]
  interns:
    - judge
    - qwen
  judge: judge
  depth: 0
"""


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("", "", ["(1) line 7, column 5: unknown key 'models.qwen2.5-vl.timeot'", "(2) line 14, column 10: search.depth"]),
        ("    timeot: 3\n", "", ["line 5, column 15: models.qwen2.5-vl: base_url must begin"]),
        ("    model: qwen\n    timeot: 3\n", "", ["line 3, column 3: models.qwen2.5-vl.model: Field required"]),
    ],
)
def test_a_fault_is_named_with_its_line_and_column(tmp_path: Path, before: str, after: str, words: list[str]) -> None:
    (tmp_path / "c.yaml").write_text(WITH_FAULTS.replace(before, after))
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    for line in words:
        assert line in str(caught.value)


def test_an_unknown_model_is_named_with_the_line_that_names_it(tmp_path: Path) -> None:
    text = WITH_FAULTS.replace("localhost:8000", "http://h/v1").replace("    timeot: 3\n", "").replace("depth: 0", "depth: 1")
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml, line 9, column 3: search\.interns names 'qwen', which is not defined"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(("provider", "words"), [("ofline", "did you mean 'offline'?"), ("vllm", "choose one of openai, ")])
def test_an_unknown_provider_is_named_with_its_line_and_the_known_ones(tmp_path: Path, provider: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(WITH_FAULTS.replace("provider: offline", f"provider: {provider}"))
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert f"line 2, column 21: models.judge: unknown provider '{provider}'; {words}" in str(caught.value)


def test_a_file_that_is_gone_when_its_fault_is_reported_has_no_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.yaml: search\.depth"):
        check_config(changed("search.depth", 0), origin=tmp_path / "c.yaml")
