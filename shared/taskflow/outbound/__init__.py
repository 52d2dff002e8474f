"""Requests to addresses that users name: one guarded HTTP client for all of them."""
