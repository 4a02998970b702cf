"""The console: the page, its files and its sessions."""
