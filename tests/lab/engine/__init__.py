"""The engine image: the real vLLM 0.11, for CPUs, under the name and with the manners of NVIDIA's image."""
