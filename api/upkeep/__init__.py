"""The janitor's housekeeping: what has expired, was left over, or is dated in the future."""
