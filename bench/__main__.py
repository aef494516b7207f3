"""``make bench``: every benchmark in turn; about forty minutes on two cores, mostly for the merge. Name some to run only those."""

import sys

from bench import (
    answer_parsing,
    batch,
    broker,
    build,
    clients,
    cost_of_a_call,
    deidentification,
    evaluation,
    faults,
    kills,
    local_generation,
    merge,
    search_speed,
    shared_images,
    suites,
    train_throughput,
    view,
)

ALL = {
    "search_speed": search_speed,
    "clients": clients,
    "cost_of_a_call": cost_of_a_call,
    "kills": kills,
    "evaluation": evaluation,
    "suites": suites,
    "broker": broker,
    "build": build,
    "faults": faults,
    "train_throughput": train_throughput,
    "local_generation": local_generation,
    "merge": merge,
    "batch": batch,
    "answer_parsing": answer_parsing,
    "shared_images": shared_images,
    "deidentification": deidentification,
    "view": view,
}

for name in sys.argv[1:] or ALL:
    if name not in ALL:
        sys.exit(f"no benchmark is called {name}: there are {', '.join(ALL)}")
    ALL[name].main()
