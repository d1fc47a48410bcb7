"""Home Assistant's way in: the Wyoming protocol (asr, handle, tts) over TCP. It only translates."""
