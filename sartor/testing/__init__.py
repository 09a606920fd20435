"""Conformance suites: the laws of the protocols, for our implementations and for third parties'."""
