"""Searches whose models are asked through batches."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.batch_endpoint import BatchEndpoint, BatchFaults
from tests.support.cases import write_cases
from tests.support.command import CHIRON, environment
from tests.support.runs import JUDGE, MENTORS, config_of, execute, team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import wait_until

BATCH: dict[str, Any] = {"quiet": 0.02, "poll": 0.01, "attempts": 20}
