"""What tools of test agents did, in a module that all copies of their text share."""

CALLS: list[tuple[str, str]] = []
"""Calls that were made: what for, and the idempotency key."""
