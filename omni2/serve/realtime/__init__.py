"""OpenAI's Realtime protocol: the socket, and the rules of a session apart from it."""
