"""Events: what comes in from brokers, databases, clocks and folders, and what goes out to them.

Called by the kernel (which keeps inbox and outbox, and decides with `dispatching`), by readers in
Ray actors (`on_ray`), and by the runtime (which checks what users write). One reader reads one
source and hands batches to the kernel; a batch is acknowledged to its source only once it is on
disk. Whatever a message was, it becomes a CloudEvent or the reason why it cannot be one; one bad
message holds up no other. Must not know the database, flows, or what an event means.
"""
