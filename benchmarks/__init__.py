"""Side by side with what users would pick instead, in one run: ``python -m benchmarks`` (or ``make bench``).

The way of a figure: ``contenders`` (what is compared, and how it is started) → ``provider`` (says the tokens, each with
the time it was said) → ``dialects`` (how a turn is asked for and read) → ``load`` (many sessions) → ``scenarios``
(what is measured) → ``report`` and ``picture``. ``machine`` reads the kernel's counters. Nothing here uses threadwire's
own client or load generator: what is compared with others is measured by the same code as they are.
"""
