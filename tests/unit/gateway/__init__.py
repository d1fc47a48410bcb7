"""Edges and gateways without HAProxy: settings and certificates."""
