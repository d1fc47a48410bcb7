"""The lab: virtual DGX Sparks, a registry and a model hub on this machine, for whoever has no Spark."""
