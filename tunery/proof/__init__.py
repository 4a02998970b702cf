"""The proof that a server answers with the weights that were trained: what a training keeps for it,
how a server is asked, and what its answers show.
"""
