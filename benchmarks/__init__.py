"""Benchmarks: one question per module, asked of contestants that run side by side.

`python -m benchmarks.endpoint` (or `make bench`) asks what an endpoint costs. Every answer
is checked, rounds are interleaved, and results go to `benchmarks/results/` as JSON lines
with the machine they came from. `README.md` tells what was found and where the time goes.
"""
