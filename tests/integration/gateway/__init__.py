"""Real HAProxy on loopback, configured by the role itself, before scripted engines."""
