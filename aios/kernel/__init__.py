"""The control plane: Ray's life on this machine, desired state, and what brings one to the other.

`head`, `guard`, `driver`, `ports` and `processes` start, watch and end a Ray head as plain
operating system processes; they never import ray, so the command line stays fast and a broken
Ray can still be stopped. The rest of the room runs inside Ray: the kernel holds desired state in
the store and reconciles it with Serve.

Called by `runtime` and `cli`. Invariants: everything that a runtime starts carries its id in
the environment, so that stopping ends exactly that; a home has at most one runtime. This room
must not know how a request is served or how a rollout decides.
"""
