"""The names that people give the columns of a pair: one list for each part, the best known first.

Layouts are composed of these. A name that belongs here makes every layout with that part read it.
"""

from __future__ import annotations

PROMPTS = (
    *("prompt", "query", "question", "instruction", "input", "context", "problem"),
    *("user_prompt", "user_query", "user_input", "prompt_text"),
)
CONVERSATIONS = (
    *("messages", "conversations", "conversation", "dialogue", "dialog", "trajectory", "chat"),
    *("prompt", "context", "history", "input"),
)
SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
INPUT = ("input", "context")
HISTORY = ("history",)
TOOLS = ("tools",)

ANSWERS = (
    ("chosen", "rejected"),
    *((f"chosen_{what}", f"rejected_{what}") for what in ("response", "answer", "output", "completion", "text")),
    *((f"{what}_chosen", f"{what}_rejected") for what in ("response", "answer", "output", "completion", "text")),
    *((f"chosen_{what}", f"rejected_{what}") for what in ("message", "messages", "conversation")),
    *((f"preferred_{what}", f"non_preferred_{what}") for what in ("output", "response", "answer", "completion")),
    *((f"preferred_{what}", f"dispreferred_{what}") for what in ("output", "response", "answer", "completion")),
    *(("preferred", "dispreferred"), ("preferred", "non_preferred"), ("accepted", "rejected")),
    *(("accepted_response", "rejected_response"), ("winning_response", "losing_response")),
    *(("better_response", "worse_response"), ("better_answer", "worse_answer")),
    ("response_j", "response_k"),  # StackExchange's pairs: j was voted above k
)
"""Columns of the better and the worse response, two and two."""
CHOSEN = tuple(dict.fromkeys(better for better, _ in ANSWERS))
REJECTED = tuple(dict.fromkeys(worse for _, worse in ANSWERS))

SIDES = tuple(
    (f"{stem}{one}", f"{stem}{other}")
    for stem in (
        *("response", "output", "answer", "completion", "conversation", "human_ref", "reply", "summary"),
        *("generation", "candidate", "text"),
    )
    for one, other in (("_a", "_b"), ("_A", "_B"), ("_0", "_1"), ("_1", "_2"), ("1", "2"), ("A", "B"))
)
"""Columns of two responses of which another column tells the better one."""
WINNERS = (
    *("preference", "winner", "better_response_id", "better", "better_response", "preferred", "choice"),
    *("safer_response_id", "label", "labels", "overall_preference", "preference_strength"),
)

CANDIDATES = ("responses", "completions", "candidates", "generations", "answers", "outputs")
SCORES = ("scores", "ratings", "rewards")
RANKED = ("answers", "ranked_answers", "ranked_responses", "ranked_completions", "ranking", "output")
"""Lists of responses, the best first, or each with its rank."""
TEXT_OF = ("response", "text", "answer", "content", "completion", "output")
SCORE_OF = ("overall_score", "score", "fine-grained_score", "rating", "reward")
"""Where an element of a list of responses that is an object has its text and its score."""

COMPLETIONS = ("completion", "response", "answer", "output")
LABELS = ("label", "kto_tag", "labels", "is_chosen", "is_desirable", "desirable", "thumbs_up")

TRUE = frozenset({"true", "1", "yes", "y", "t", "desirable", "chosen", "good", "positive"})
FALSE = frozenset({"false", "0", "no", "n", "f", "undesirable", "rejected", "bad", "negative"})
TIES = frozenset({"tie", "tie (bothbad)", "ties", "both", "bothbad", "both bad", "neither", "equal", "same", "none"})


def truth(value: object) -> bool | None:
    """What a label says, in any of the usual spellings; None where it is none of them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    said = value.strip().lower() if isinstance(value, str) else ""
    return True if said in TRUE else False if said in FALSE else None
