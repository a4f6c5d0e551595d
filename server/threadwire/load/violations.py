"""The promises of the protocol that a load run watches, by the name under which a breach is counted."""

from __future__ import annotations

#: Name → what it means, as the report tells it.
VIOLATIONS: dict[str, str] = {
    "token_mismatch": "the joined tokens of a message are not the text that the thread holds",
    "seq_repeated": "a frame came twice: its seq is that of the frame before it",
    "seq_went_back": "a frame came out of order: its seq is below one that came before",
    "run_finished_twice": "a run ended more than once",
    "run_never_finished": "an acknowledged run had no run_finished within the turn's timeout",
    "foreign_frame": "a frame or a message belonged to a run or a thread of somebody else",
    "resume_gap": "a reader that came back at once had missed something, or was told so",
    "cancel_late": "a cancelled run had not finished within its deadline",
}
#: Explanations that are kept of each; the counts go on.
KEPT_EXPLANATIONS = 5
