"""aios: one runtime on Ray for the whole life of an AI feature in production."""
