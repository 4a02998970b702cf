"""A copy of the whole service that another one can be made from: `python -m api.admin backup`."""
