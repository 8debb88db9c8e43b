"""What all tests share."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # run in the background of a shell, which has what it starts ignore it; what tests start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
