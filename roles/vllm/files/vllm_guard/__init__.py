"""Guard of a vLLM engine: tells a live one from one that looks alive, and restarts it within a budget."""
