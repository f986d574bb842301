"""How much traffic an endpoint bears, and what machines that takes.

For: `rt.measure`, `aios plan` and the benchmarks. It holds the load generator (a process of its
own that sends when it should and not when it can), the search for the largest rate within a
budget, the measurement as a file, the queueing formulas, and the arithmetic from there to replicas,
nodes and money. Invariants: latency counts from the moment at which a request was due; a
generator that could not keep up says so; everything but the generator's process and the
search's clock is a pure function of a measurement. Must not know: endpoints, contracts, Ray. It
speaks HTTP to an address and is told what to send.
"""
