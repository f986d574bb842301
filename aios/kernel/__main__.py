"""`python -m aios.kernel`: start the kernel on a cluster. Reads a JSON object on standard
input: {"ray_address", "settings", "api_key"}; prints {"pid"} or a problem.

A process of its own, so that whoever starts a runtime does not import Ray.
"""

import json
import sys

from aios.kernel.boot_on_ray import boot

request = json.load(sys.stdin)
pid = boot(request["ray_address"], request["settings"], tuple(request["api_key"]))
print(json.dumps({"pid": pid}))
