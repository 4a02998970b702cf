"""The database: transactions by role, logins, the revision of the schema, sealed secrets."""
