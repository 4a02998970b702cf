"""Servers of operators that answer in the place of workers, once they have proved that they answer
with what was trained.
"""
