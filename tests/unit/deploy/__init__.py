"""Deployment of models and of the service: the parts that need no host."""
