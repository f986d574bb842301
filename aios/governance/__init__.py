"""Which versions may serve: gates, the policy of risk tiers, clearance, model cards.

For: `kernel`, which keeps what is found, and `training`, which runs the gates. Invariants:
every decision is a pure function of records and a time, so it can be made again from what
was stored; what cannot be judged is `not_enough_data` and never passes; a policy names only
gates that exist. Must not know: the registry's tables, Ray, HTTP.
"""
