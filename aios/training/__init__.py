"""From data to a candidate: snapshot, split, search, refit, evaluate, gates.

For: `kernel`, which drives a run stage by stage as a durable flow, and the SDK, which sends
recipes. Invariants: a stage can be run again at any time and gives the same; the holdout is
never seen by search or fit; what ran is what was stored. Must not know: the registry, HTTP.
"""
