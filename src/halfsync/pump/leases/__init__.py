"""Responses that the pump may repeat by itself."""
