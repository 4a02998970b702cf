"""Kernels of our own for CUDA, each with a plain twin that computes the same. Which are used is one
switch, `chosen.py`.
"""
