"""Schedulers of our own on Ray Tune's interface, where Ray's want to pause trials.

A trial of Ray Train cannot be paused: its workers hold the device. Read next: `median`.
"""
