"""Requests and answers of the public API: OpenAI's shapes, and ours beside them under one key.

Times are Unix seconds. An unknown field in a request is refused, never ignored.
"""
