"""Conversation in both directions at once: it listens while it speaks, stops when told, and knows whose turn it is."""
