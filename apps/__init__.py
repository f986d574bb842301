"""Complete examples. Each imports from aios only what `aios.__all__` names."""
