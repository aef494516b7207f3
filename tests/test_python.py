"""What ``import chiron`` offers works as ``docs/python.md`` says."""

import asyncio
import inspect
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import chiron
from chiron import Call, Case, ImagePart, Policy, Reply, RoleModel, Team, search
from chiron.client.ledger import Ledger
from tests.support.cases import known_answers, write_cases
from tests.support.command import wait_for
from tests.support.endpoint import Endpoint
from tests.support.runs import team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import PATIENCE


def test_everything_offered_is_there_and_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    for name in chiron.__all__:
        assert getattr(chiron, name) is not None
        assert name.startswith("__") or re.search(rf"`{name}\b", page), name
    with pytest.raises(AttributeError, match="nothing"):
        _ = chiron.nothing  # type: ignore[attr-defined]


def test_every_public_class_and_method_is_described() -> None:
    """The reference page leaves out what has no docstring of its own."""
    for name in chiron.__all__:
        offered = getattr(chiron, name)
        members = vars(offered) if inspect.isclass(offered) else {}
        functions = {key: getattr(value, "fget", getattr(value, "__func__", value)) for key, value in members.items()}
        described = {key: value for key, value in functions.items() if inspect.isfunction(value) and not key.startswith("_")}
        assert not callable(offered) or offered.__doc__, name
        assert not (offered.__doc__ or "").startswith(f"{name}("), name  # as a dataclass writes it
        assert [key for key, value in described.items() if not value.__doc__] == [], name


def test_one_case_over_an_ask_of_ones_own() -> None:
    case = Case(id="1", question="What is seen?", answer="Rib fracture", images=("1.png",), findings=("The seventh rib is interrupted.",))
    people = Team((RoleModel("big", "b", 99),), (RoleModel("small", "s", 99),), RoleModel("judge", "j", 8))

    async def ask(call: Call) -> Reply:
        if call.role == "judge":
            return Reply("yes")
        return Reply("### Step 1: A line crosses it.\n### Step 2: It is displaced.\n### The final answer is: Broken rib")

    result = asyncio.run(search(case, people, ask, Policy(depth=2), pictures=(ImagePart("a" * 64, 1536),)))
    with pytest.raises(chiron.InputError, match="1 images, but 0 pictures"):
        asyncio.run(search(case, people, ask, Policy()))
    assert result.retained
    assert result.to_path_record()["mics_score"] == 1.0


@pytest.mark.slow
def test_the_whole_job_also_where_a_loop_already_runs(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = chiron.load_config(write_config(tmp_path / "c.yaml", team(endpoint.base_url)))
        first = chiron.run_search(cases, config, tmp_path / "a", limit=1)
        assert first.total == 1

        async def notebook() -> int:
            inside = chiron.run_search(cases, config, tmp_path / "b")  # blocks, as a cell does
            awaited = await chiron.run_search_async(str(cases), config, str(tmp_path / "c"), shard="1/1")
            return inside.total + awaited.total

        assert asyncio.run(notebook()) == 4
    assert sum(chiron.read_status(tmp_path / "b").outcomes.values()) == 2
    assert chiron.write_report(tmp_path / "b").is_file()


NOTEBOOK = """
import asyncio, signal, sys
import chiron

signal.signal(signal.SIGINT, signal.default_int_handler)  # as a kernel has it, also where whoever began the tests ignores interrupts

async def cell():
    config = chiron.load_config(sys.argv[2])
    print("begun", flush=True)
    try:
        chiron.run_search(sys.argv[1], config, sys.argv[3])
    except KeyboardInterrupt:
        print("interrupted", flush=True)

# Not asyncio.run, which takes the interrupt for itself: a kernel's loop does not.
asyncio.new_event_loop().run_until_complete(cell())
"""


@pytest.mark.slow
@pytest.mark.parametrize("interrupts", [1, 2])
def test_interrupting_a_notebooks_cell_stops_the_run(tmp_path: Path, interrupts: int) -> None:
    cases = write_cases(tmp_path, 8)
    seconds = 0.2 if interrupts == 1 else 2 * PATIENCE
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: seconds) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        command = [sys.executable, "-c", NOTEBOOK, str(cases), str(config), str(tmp_path / "r")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(endpoint, 20)
        process.send_signal(signal.SIGINT)
        if interrupts == 2:
            time.sleep(0.5)
            assert process.poll() is None  # it waits for what is under way
            process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said.split()) == (0, ["begun", "interrupted"]), errors
        assert "Traceback" not in errors
        answered = sum(endpoint.seen.answered.values())
    with Ledger.read(tmp_path / "r" / "ledger.sqlite") as ledger:
        assert sum(s.calls for s in ledger.spending()) == answered  # what came in was kept
    assert answered < 200  # and the rest was not asked


def test_importing_it_is_light_and_never_needs_torch() -> None:
    code = "import sys, chiron; chiron.Case; print([m for m in ('aiohttp', 'torch', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
