"""Chat templates, in a wording of our own: what stands around the turns of user and assistant."""

from typing import NamedTuple

TEMPLATES = (
    "<|ask|>{user}\n<|reply|>{assistant}\n<|done|>",
    "[USER] {user} [BOT] {assistant} [END]",
    "### Request\n{user}\n### Response\n{assistant}\n",
    "Human: {user}\n\nModel: {assistant}\n",
    "(you) {user}\n(me) {assistant}\n",
)
HELD_OUT = "Question| {user}\nAnswer| {assistant}\n"


class ChatTemplate(NamedTuple):
    """The three pieces of text around the two turns."""

    opening: str
    middle: str
    closing: str

    @classmethod
    def parse(cls, text: str) -> "ChatTemplate":
        """Parse a template; ValueError unless it has {user} and then {assistant}, once each."""
        opening, user, rest = text.partition("{user}")
        middle, assistant, closing = rest.partition("{assistant}")
        again = any(
            name in part for name in ("{user}", "{assistant}") for part in (opening, closing)
        )
        if not (user and middle and assistant) or again or "{user}" in middle:
            raise ValueError(
                f"a chat template must contain {{user}}, a text, and {{assistant}}, not {text!r}"
            )
        return cls(opening, middle, closing)
