"""Tests of spark-voicebot, and the lab they run in."""
