"""The fast path: one replica answers predictions for one endpoint.

For: `kernel` deploys these replicas through Ray Serve; clients reach them over HTTP.
Invariants: the stable version runs in this process and nothing a challenger does can fail a
user's request; a replica acts on one immutable traffic plan at a time; nothing is awaited
on behalf of monitoring. Must not know: the database, rollouts, how a plan was decided.

A request, in order (`http.py` then `endpoint.py`):
1. authenticate, bound the body, decode and validate it against the contract;
2. `plan.choose(key)`: stable, or the canary's own application within the deadline;
3. stable's `runner.py` (on the event loop when fast, else a thread with natural batching);
4. on failure the `fallback.py` chain; then encode and respond;
5. `windows.py`, `recorder.py` and `shadow.py` take their copies from memory, on timers.
"""
