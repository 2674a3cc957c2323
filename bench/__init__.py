"""Proofs that are too slow for the tests: one command each, results written by the command to `bench/results/`."""
