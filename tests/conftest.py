"""For all tests: Ctrl-C works in processes that they start, also where it is ignored here."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
