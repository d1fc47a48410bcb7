"""Style rules."""
