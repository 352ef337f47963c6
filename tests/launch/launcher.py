"""A launcher in its own process: `python -m tests.launch.launcher <arguments as JSON>`."""

import json
import sys

from tests import harness
from tfbig.launch.local import launch
from tfbig.launch.supervisor import Timeouts

if __name__ == "__main__":
    harness.keep_to_own_ports()
    arguments = json.loads(sys.argv[1])
    sys.exit(launch(**arguments | {"timeouts": Timeouts(**arguments["timeouts"])}))
