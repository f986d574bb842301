"""What a user holds: the runtime and the objects it returns; also `up`, `down` and `local`.

The only room that may know every other. Invariants: no object keeps state that the control
plane has (each call asks); a call repeated after a lost answer carries the same operation
id; nothing here imports Ray, so a notebook stays light.
"""
