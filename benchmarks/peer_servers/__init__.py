"""The servers of others that `benchmarks.servers` puts beside aios, one small file each.

`catalogue` says how each is installed, asked and how well it should be beaten; `launch` starts one
and ends it. The files `on_*` run in the peer's own environment, as `python -m
benchmarks.peer_servers.on_NAME PORT GRAPH WORKERS FOLDER`: they import the peer and
`benchmarks.scorer`, and nothing of aios. Their docstrings hold the settings and the reasons.
"""
