"""Configs of other trainers, read as jobs.

Of each key of a config there is one verdict: it is a setting here, it has no effect here for a
reason that is told, or it is refused with a way to fix it.
"""
