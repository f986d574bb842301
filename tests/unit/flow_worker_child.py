"""A worker in a process of its own, for tests that kill or freeze it."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from flow_worlds import Host

from aios.flows.place import Place
from aios.flows.worker import FlowWorker
from aios.records.acting import Definition

if __name__ == "__main__":
    told = json.loads(sys.stdin.read())
    definitions = [Definition.model_validate(one) for one in told["definitions"]]
    place = Place(told["url"], told["values"])
    host = Host({one.ref: one for one in definitions})
    # A worker that loses its lease stays here, so that tests see it do nothing.
    FlowWorker(place, told["id"], host, lost=lambda: print("lost", flush=True)).launch()
    print("up", os.getpid(), flush=True)
    while True:
        time.sleep(3600)
