"""Token ids back to text, piece by piece, never cutting a character in two."""

from tokenizers import Tokenizer

from omni2.tokens import TokenLayout

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for bytes that are no whole character yet


class WordStream:
    """`push(id)` returns the text that became certain; all pieces together are the decoded whole."""

    def __init__(self, tokenizer: Tokenizer, layout: TokenLayout) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self._ids: list[int] = []
        self._told = 0

    def push(self, token: int) -> str:
        """One id of the text layer; specials say nothing."""
        if token >= self.layout.text_ids:
            return ""
        self._ids.append(token)
        text = self._decoded()
        return "" if text.endswith(BROKEN) else self._tell(text)

    def flush(self) -> str:
        """What was held back."""
        return self._tell(self._decoded())

    def _decoded(self) -> str:
        text: str = self.tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _tell(self, text: str) -> str:
        new, self._told = text[self._told :], len(text)
        return new
