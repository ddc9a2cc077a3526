"""Scoring primitives and statistics that every outcome rests on."""
