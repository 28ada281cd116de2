"""Tests of the rules, each on both engines."""
