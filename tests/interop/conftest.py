"""Shared fixtures of the interop tests."""
