"""The lab's parts, each alone: no root, no network, no lab."""
