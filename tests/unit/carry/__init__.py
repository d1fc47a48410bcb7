"""Depot and bundle."""
