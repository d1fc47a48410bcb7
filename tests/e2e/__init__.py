"""End-to-end tests: the real playbooks against a virtual Spark."""
