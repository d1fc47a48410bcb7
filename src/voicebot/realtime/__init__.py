"""The OpenAI Realtime API (GA) over WebSocket; docs/realtime.md says what of it."""
