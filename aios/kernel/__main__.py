"""`python -m aios.kernel`: start the kernel on a cluster, and stay, see `boot_on_ray.stay`. Reads a
JSON object on standard input: {"ray_address", "settings", "api_key"}; prints `UP` or a problem.

A process of its own, so that whoever starts a runtime does not import Ray.
"""

import json
import sys

from aios.kernel.boot_on_ray import boot, stay
from aios.kernel.driver import UP

request = json.load(sys.stdin)
boot(request["ray_address"], request["settings"], tuple(request["api_key"]))
print(UP, flush=True)
stay()
