"""Messages of a simulated NATS server, and the subjects that they go to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Message:
    """What is sent: *headers* is the block with its first line, empty if there is none."""

    subject: str
    reply: str
    headers: bytes
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header; "" if there is none."""
        for line in self.headers.decode("latin-1").split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.strip() == name:
                return value.strip()
        return ""


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription gets messages of a subject."""
    if "*" not in pattern and ">" not in pattern:  # most of them
        return pattern == subject
    wanted, words = pattern.split("."), subject.split(".")
    for position, word in enumerate(wanted):
        if word == ">":
            return len(words) > position
        if position == len(words) or word not in ("*", words[position]):
            return False
    return len(wanted) == len(words)
