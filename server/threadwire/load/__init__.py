"""``threadwire load`` and ``threadwire soak``: many sessions, told honestly.

A run: arguments → options (with scenario) → run (here, or in workers) → generator → session → tab → connection →
reader, which checks every frame and counts into the recorder. What recorders took each second goes into the ledger;
result, screen, report, compare and thresholds read that. The hot path is connection and reader: picows and orjson, no
models, no tasks.

Needs the extra ``load``; ``--help`` does without.
"""
