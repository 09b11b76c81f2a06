"""Judges: what an answer was, a refusal or compliance, and how often a judge errs."""
