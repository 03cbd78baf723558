"""Answers for notebooks and data frames: lists that can display themselves and become tables."""
