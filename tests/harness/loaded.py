"""What a server of forks imports before anything is forked from it (:mod:`tests.harness.processes`)."""

from tests.harness.forks import load

load()
