"""The engine: container, gate, memory."""
