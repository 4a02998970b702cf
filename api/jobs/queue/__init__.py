"""The workers' side of a job: whose turn it is, leases, attempts, and how they end."""
