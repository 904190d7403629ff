"""The server: the released clients' contract and OpenAI's protocols over one engine."""
