"""A private voice assistant: speech in, a local LLM engine, speech out."""
